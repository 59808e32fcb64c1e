// Overview and table.

function overview() {
  const runs = RUNS;
  const counts = Object.keys(WORDS).map(key => [key, runs.filter(run => run.about.state === key).length]).filter(([, n]) => n);
  const facts = [el("div", { class: "card" },
    el("h3", { text: "Runs" }), el("p", { class: "big", text: String(runs.length) }),
    el("ul", { class: "plain" }, counts.map(([key, n]) => el("li", {}, el("span", { class: `state ${key}`, text: WORDS[key] }), ` ${n}`))),
    el("p", { class: "quiet", text: `in all ${duration(runs.reduce((sum, run) => sum + (run.about.wall_seconds || 0), 0))} of wall time` }))];
  facts.push(bestCard(runs));
  facts.push(el("div", { class: "card" }, el("h3", { text: "What varies" }),
    DATA.axes.length ? el("dl", {}, DATA.axes.slice(0, 8).map(axis => [
      el("dt", { text: axis.key }), el("dd", { text: valuesOf(axis) })]))
      : el("p", { text: "Nothing: all runs have the same config." }),
    DATA.axes.length > 8 && el("p", { class: "quiet", text: `and ${DATA.axes.length - 8} further keys: “Columns” of the table lists them` })));
  $("cards").replaceChildren(...facts);
  const failed = runs.filter(run => !["finished", "pruned"].includes(run.about.state));
  $("unfinished").replaceChildren(...failed.map(run => el("li", {},
    el("span", { class: `state ${run.about.state}`, text: WORDS[run.about.state] || run.about.state }), " ",
    el("strong", { text: run.label }), " ",
    el("span", { text: run.about.error || (run.about.state === "running" ? `last sign of life ${run.about["last sign"]}` : "stopped before its end") }))));
  $("unfinished-part").hidden = !failed.length;
}
function valuesOf(axis) {
  const values = [...new Set(RUNS.filter(run => axis.key in run.config).map(run => run.config[axis.key]))];
  const also = axis.also.length ? `; with it ${axis.also.length > 2 ? `${axis.also.length} further keys` : axis.also.join(", ")}` : "";
  const numeric = values.every(value => typeof value === "number");
  if (numeric) values.sort((a, b) => a - b);
  const list = values.length <= 6 ? values.map(value => shown(value)).join(", ")
    : numeric ? `${values.length} values, ${shown(values[0])} to ${shown(values[values.length - 1])}` : `${values.length} values`;
  return list + also;
}
function bestCard(runs) {
  const column = COLUMNS.get(state.metric);
  const best = bestRun(runs.filter(run => run.about.state === "finished")) || bestRun(runs);
  const told = best ? [
    el("p", { class: "big", text: shown(column.get(best), column) }),
    el("p", {}, el("button", { class: "link", "data-k": "best", text: best.label, title: "select this run", onclick: () => choose([best]) })),
    state.group ? null : seedWords(best)] : [el("p", { text: "No run has this metric." })];
  return el("div", { class: "card" }, el("h3", { text: `Best ${column ? column.label : "run"}` }), told,
    el("p", { class: "quiet", text: `${lowerIsBetter() ? "lowest" : "highest"} of ${runs.filter(run => number(run, state.metric) !== null).length} runs that have it` }));
}
function seedWords(best) {
  const group = groupsOf(RUNS).find(group => group.runs.includes(best));
  const values = group.runs.map(run => number(run, state.metric)).filter(value => value !== null);
  if (values.length < 2 || !seeds.size) return null;
  const column = COLUMNS.get(state.metric);
  return el("p", { class: "quiet", text: `${group.label} over ${values.length} seeds: ${shown(mean(values), column)} ± ${shown(deviation(values), column)}` });
}

const tableColumns = () => state.cols.split(",").filter(key => COLUMNS.has(key)).map(key => COLUMNS.get(key));

function table() {
  const columns = tableColumns();
  const [sortKey, way] = splitSort();
  const rows = state.group ? groupsOf(shownRuns()).map(groupRow) : shownRuns().map(runRow);
  const sign = way === "up" ? 1 : -1;
  const column = COLUMNS.get(sortKey);
  rows.sort((a, b) => order(a.sort(column), b.sort(column), sign));
  const best = new Map(columns.map(column => [column, bestOf(rows, column)]));
  const head = el("tr", {},
    el("th", { scope: "col", class: "pick" }, el("span", { class: "sr", text: "select" })),
    heading({ key: "name", label: state.group ? "group" : "run" }, sortKey, way), columns.map(column => heading(column, sortKey, way)));
  $("table").replaceChildren(
    el("caption", { class: "sr", text: "Runs with their settings and scores; buttons in the head sort" }),
    el("thead", {}, head),
    el("tbody", {}, rows.map(row => bodyRow(row, columns, best))));
  $("no-rows").hidden = rows.length > 0;
  $("table-note").textContent = state.group
    ? "Mean ± standard deviation over the runs that differ in seeds alone, and their number where it is not that of the group."
    : "▲ marks the best value of a column.";
}
const splitSort = () => { const cut = state.sort.lastIndexOf(":"); return [state.sort.slice(0, cut), state.sort.slice(cut + 1)]; };
function heading(column, sortKey, way) {
  const on = column.key === sortKey;
  const go = () => set({ sort: `${column.key}:${on ? (way === "up" ? "down" : "up") : column.kind === "metric" && !column.lower ? "down" : "up"}` });
  return el("th", { scope: "col", class: column.numeric ? "num" : null, "aria-sort": on ? (way === "up" ? "ascending" : "descending") : null },
    el("button", { "data-k": `sort ${column.key}`, title: column.key, onclick: go }, el("span", { text: column.label }),
      el("span", { class: "arrow", "aria-hidden": "true", text: on ? (way === "up" ? "▴" : "▾") : "▿" })));
}
function runRow(run) {
  return {
    key: `run ${run.number}`, label: run.label, title: run.folder, runs: [run],
    sort: column => column ? column.get(run) : run.label,
    score: column => column.get(run),
    cell: column => column.key === "state" ? el("span", { class: `state ${run.about.state}`, text: shown(run.about.state, column) }) : shown(column.get(run), column),
    tip: column => { const value = column.get(run); return value === null || value === undefined ? null : plain(value); },
  };
}
function groupRow(group) {
  const numbers = column => group.runs.map(column.get).filter(value => typeof value === "number");
  const averaged = column => column.numeric && column.kind !== "config";
  const score = column => averaged(column) ? (numbers(column).length ? mean(numbers(column)) : null) : column.get(group.runs[0]);
  return {
    key: `group ${group.key}`, label: `${group.label} (n = ${group.runs.length})`, title: group.runs.map(run => run.folder).join("\n"), runs: group.runs,
    sort: column => column ? score(column) : group.label, score,
    cell: column => {
      if (!averaged(column)) {
        const values = [...new Set(group.runs.map(run => shown(column.get(run), column)))];
        return values.length <= 5 ? values.join(", ") : `${values.length} values`;
      }
      const found = numbers(column);
      if (!found.length) return "–";
      const spread = found.length > 1 ? ` ± ${shown(deviation(found), column)}` : "";
      return `${shown(mean(found), column)}${spread}${found.length < group.runs.length ? ` (${found.length})` : ""}`;
    },
    tip: column => group.runs.map(run => `${run.label}: ${shown(column.get(run), column)}`).join("\n"),
  };
}
function bestOf(rows, column) {
  if (column.kind !== "metric" || rows.length < 2) return null;
  const values = rows.map(row => row.score(column)).filter(value => typeof value === "number");
  if (!values.length || Math.min(...values) === Math.max(...values)) return null;
  const lower = column.key === state.metric ? lowerIsBetter() : column.lower;
  return lower ? Math.min(...values) : Math.max(...values);
}
function bodyRow(row, columns, best) {
  const count = row.runs.filter(run => selected.has(run)).length;
  const box = el("input", { type: "checkbox", "data-k": `pick ${row.key}`, "aria-label": `select ${row.label}`, checked: count === row.runs.length,
    onchange: event => pick(row.runs, event.target.checked) });
  box.indeterminate = count > 0 && count < row.runs.length;
  const tr = el("tr", { class: count ? "on" : null, "aria-selected": null },
    el("td", { class: "pick" }, box),
    el("th", { scope: "row", title: row.title }, row.runs.length === 1 && swatch(row.runs[0]), el("span", { class: "name", text: row.label })),
    columns.map(column => {
      const top = best.get(column) !== null && row.score(column) === best.get(column);
      return el("td", { class: [column.numeric ? "num" : "", top ? "best" : ""].join(" ").trim() || null, title: row.tip(column) },
        top && el("span", { class: "crown", text: "▲ ", "aria-label": "best" }), row.cell(column));
    }));
  tr.addEventListener("click", event => { if (!event.target.closest("input, button, a") && !String(getSelection())) pick(row.runs, count < row.runs.length); });
  return tr;
}
function swatch(run) {
  if (!selected.has(run)) return el("span", { class: "swatch none", "aria-hidden": "true" });
  return el("span", { class: "swatch", "aria-hidden": "true", style: { background: lineStyles(activeRuns()).get(run).color } });
}

function columnChooser() {
  const kinds = { run: "of the run", config: "config keys that differ", metric: "metrics" };
  const on = new Set(state.cols.split(","));
  $("columns").replaceChildren(...Object.entries(kinds).map(([kind, title]) => el("fieldset", {}, el("legend", { text: title }),
    el("div", { class: "choices" }, [...COLUMNS.values()].filter(column => column.kind === kind && column.filled).map(column => el("label", {},
      el("input", { type: "checkbox", "data-k": `col ${column.key}`, checked: on.has(column.key), onchange: event => {
        const keys = [...COLUMNS.keys()].filter(key => key === column.key ? event.target.checked : on.has(key));
        set({ cols: keys.join(",") });
      } }), ` ${column.label}`))))));
}
