// Any setting or score against any other.

const SHAPES = [
  r => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0Z`,
  r => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  r => `M0 ${-1.3 * r}L${1.2 * r} ${r}H${-1.2 * r}Z`,
  r => `M0 ${-1.4 * r}L${1.4 * r} 0L0 ${1.4 * r}L${-1.4 * r} 0Z`,
  r => `M0 ${1.3 * r}L${1.2 * r} ${-r}H${-1.2 * r}Z`,
  r => `M${-r} ${-r / 2.2}H${-r / 2.2}V${-r}H${r / 2.2}V${-r / 2.2}H${r}V${r / 2.2}H${r / 2.2}V${r}H${-r / 2.2}V${r / 2.2}H${-r}Z`,
];
let currentPoint = null; // the point that Tab reaches; arrows move on

// Colours of a key's values: steps from pale to dark of numbers, eight colours with shapes of words.
function coloring(key, runs) {
  const column = COLUMNS.get(key);
  if (!column) return { of: () => ({ color: color(0), shape: 0 }), legend: null };
  const values = [...new Set(runs.map(column.get).map(value => value ?? null))].sort((a, b) => order(a, b, 1));
  const numbers = inReach(values);
  if (column.numeric && numbers.length > 6) {
    const scale = autoScale(column) === "log" ? logScale(numbers) : linearScale(numbers);
    const of = value => ({ color: typeof value === "number" ? `color-mix(in oklab, var(--ramp1) ${Math.round(100 * scale.place(value))}%, var(--ramp0))` : "var(--quiet)", shape: 0 });
    const ends = [Math.min(...numbers), Math.max(...numbers)];
    return { of: run => of(column.get(run)), legend: el("li", {}, `${column.label}: ${shown(ends[0], column)} `, el("span", { class: "ramp", "aria-hidden": "true" }), ` ${shown(ends[1], column)}`) };
  }
  const places = new Map(values.map((value, place) => [value, place]));
  const look = value => { const place = places.get(value ?? null); return { color: color(place), shape: place % SHAPES.length }; };
  const legend = values.slice(0, 16).map(value => el("li", {}, sv("svg", { viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" },
    sv("path", { d: SHAPES[look(value).shape](5), style: { fill: look(value).color } })), ` ${shown(value, column)}`));
  return { of: run => look(column.get(run)), legend: [el("li", { class: "quiet", text: `${column.label}:` }), legend, values.length > 16 && el("li", { text: `and ${values.length - 16} more` })] };
}

function scatter() {
  const host = $("scatter");
  const [x, y] = [COLUMNS.get(state.x), COLUMNS.get(state.y)];
  const runs = shownRuns();
  const has = (run, column, kind) => {
    const value = column.get(run);
    if (kind === "categories") return !absent(value) || (column.kind === "config" && column.config in run.config); // null is a choice
    return typeof value === "number" && (kind !== "log" || value > 0);
  };
  const kinds = [state.xscale || autoScale(x), state.yscale || autoScale(y)];
  const known = runs.filter(run => has(run, x, kinds[0]) && has(run, y, kinds[1]));
  const missing = runs.length - known.length;
  const lacking = [[x, kinds[0]], [y, kinds[1]]].filter(([column, kind]) => !runs.every(run => has(run, column, kind)))
    .map(([column, kind]) => `no ${kind === "log" ? "positive " : ""}value of ${column.label}`).join(" or ");
  $("scatter-note").textContent = [missing && `${missing} of ${runs.length} runs not shown: ${lacking}.`,
    known.length && "Click a point, or press Enter on it, to select its run; arrow keys move from point to point."].filter(Boolean).join(" ");
  fill($("x"), columnEntries(), state.x);
  fill($("y"), columnEntries(), state.y);
  fill($("color"), [["", "none", ""], ...columnEntries(column => column.kind !== "metric")], state.color);
  for (const [id, column, kind, chosen] of [["xscale", x, kinds[0], state.xscale], ["yscale", y, kinds[1], state.yscale]]) {
    const names = column.numeric ? ["linear", "log", "categories"] : ["categories"];
    fill($(id), names.map(name => [name, name, ""]), names.includes(kind) ? kind : names[0]);
    $(id).dataset.auto = chosen ? "" : "yes";
  }
  if (!known.length) { host.replaceChildren(el("p", { class: "empty", text: "No run that is shown has both values: choose other axes, or widen the filter." })); $("scatter-legend").replaceChildren(); return; }
  const width = chartWidth(host), height = chartHeight(width);
  const svg = sv("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `${y.label} against ${x.label}, ${known.length} runs` });
  const scales = [[x, kinds[0]], [y, kinds[1]]].map(([column, kind]) => {
    const scale = scaleFor(kind, known.map(column.get));
    return kind === "categories" ? scale : withOwnTicks(scale, column, known.map(column.get));
  });
  const { px, py, inner } = frame(svg, width, height, scales[0], scales[1], x.label, y.label);
  const looks = coloring(state.color, RUNS);
  $("scatter-legend").replaceChildren(...[looks.legend].flat(3).filter(Boolean));
  const points = known.map(run => ({ run, x: px(x.get(run)) + jitter(known, run, x, kinds[0], inner), y: py(y.get(run)), look: looks.of(run) }))
    .sort((a, b) => a.x - b.x || b.y - a.y);
  if (!points.some(point => point.run === currentPoint)) currentPoint = points[0].run;
  if (state.means) svg.append(...meanMarks(known, x, y, px, py, inner));
  svg.append(sv("g", {}, points.map((point, place) => dot(point, place, points, x, y))));
  host.replaceChildren(svg);
}
const columnEntries = (wanted = () => true) => [...COLUMNS.values()].filter(column => column.filled && wanted(column) && !["error", "command"].includes(column.key))
  .map(column => [column.key, column.label, { run: "of the run", config: "config", metric: "metrics" }[column.kind]]);

// Runs of one category stand side by side, always in the same order.
function jitter(runs, run, column, kind, inner) {
  if (kind !== "categories") return 0;
  const peers = runs.filter(other => column.get(other) === column.get(run));
  const strip = inner.width / new Set(runs.map(column.get)).size;
  const step = Math.min(14, strip * 0.7 / peers.length);
  return (peers.indexOf(run) - (peers.length - 1) / 2) * step;
}
function meanMarks(runs, x, y, px, py, inner) {
  const values = new Map();
  for (const run of runs) {
    if (typeof y.get(run) !== "number") return [];
    values.set(x.get(run), [...(values.get(x.get(run)) || []), y.get(run)]);
  }
  const half = Math.max(8, Math.min(26, inner.width / values.size / 3));
  return [...values].filter(([, found]) => found.length > 1).map(([at, found]) => sv("line", { class: "mean", x1: px(at) - half, x2: px(at) + half, y1: py(mean(found)), y2: py(mean(found)) },
    sv("title", { text: `mean of ${found.length} runs: ${shown(mean(found), y)}` })));
}
function dot(point, place, points, x, y) {
  const { run, look } = point;
  const on = selected.has(run);
  const lines = [run.label, `${y.label}: ${shown(y.get(run), y)}`, `${x.label}: ${shown(x.get(run), x)}`,
    state.color && `${COLUMNS.get(state.color).label}: ${shown(COLUMNS.get(state.color).get(run), COLUMNS.get(state.color))}`].filter(Boolean);
  const tip = event => { const box = event.currentTarget.getBoundingClientRect(); showTip(lines, box.right - 6, box.bottom - 6); };
  const go = step => {
    const next = points[(place + step + points.length) % points.length].run;
    currentPoint = next;
    $("scatter").querySelectorAll("[role=button]").forEach(node => node.setAttribute("tabindex", node.dataset.k === `dot ${next.number}` ? 0 : -1));
    $("scatter").querySelector(`[data-k="dot ${next.number}"]`).focus();
  };
  const keys = { Enter: () => pick([run], !on), " ": () => pick([run], !on), ArrowRight: () => go(1), ArrowUp: () => go(1), ArrowLeft: () => go(-1), ArrowDown: () => go(-1) };
  return sv("g", {
    class: `dot${on ? " on" : ""}${selected.size && !on ? " dim" : ""}`, role: "button", tabindex: run === currentPoint ? 0 : -1, "data-k": `dot ${run.number}`,
    "aria-pressed": String(on), "aria-label": lines.join(", "), transform: `translate(${point.x} ${point.y})`,
    onclick: () => { currentPoint = run; pick([run], !on); }, onpointerenter: tip, onpointerleave: hideTip, onfocus: tip, onblur: hideTip,
    onkeydown: event => { if (keys[event.key]) { event.preventDefault(); keys[event.key](); } },
  }, sv("circle", { class: "ring", r: 11 }), sv("path", { d: SHAPES[look.shape](6), style: { fill: look.color } }));
}
