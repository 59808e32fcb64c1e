// Figures of the runs in columns, the same figure in a row; and one of them large.

const MOST_COLUMNS = 6; // before "all" is asked for: pictures of a hundred runs at once help nobody
let allColumns = false;
let large = null; // {runs, run, name}

function images() {
  const runs = activeRuns();
  const drawn = runs.filter(run => Object.keys(run.pictures).length);
  const names = [...new Set(RUNS.flatMap(run => Object.keys(run.pictures)))].sort();
  $("images-part").hidden = names.length === 0;
  if (!names.length) return;
  fill($("figure"), [["", "all figures", ""], ...names.map(name => [name, name, ""])], names.includes(state.figure) ? state.figure : "");
  const columns = allColumns ? drawn : drawn.slice(0, MOST_COLUMNS);
  const without = runs.length - drawn.length;
  $("images-note").textContent = [selected.size ? `Of the ${selected.size} selected runs` : `Of ${columns.length} of ${runs.length} runs shown; select runs to see theirs`,
    without && `; ${without} without pictures`, "."].filter(Boolean).join("");
  const more = $("images-more");
  more.hidden = drawn.length <= MOST_COLUMNS;
  more.textContent = allColumns ? `Only the first ${MOST_COLUMNS}` : `All ${drawn.length} runs`;
  const wanted = names.filter(name => !state.figure || name === state.figure);
  $("images").replaceChildren(...wanted.map(name => {
    const row = columns.filter(run => run.pictures[name]);
    return el("section", { class: "figure-row" }, el("h3", { text: name.replace(/_/g, " ") }),
      row.length ? el("div", { class: "strip", role: "region", tabindex: 0, "aria-label": `${name} of ${row.length} runs`, "data-k": `strip ${name}`, style: { "--columns": row.length } },
        row.map(run => panel(run, name, row))) : el("p", { class: "quiet", text: "None of these runs has it." }));
  }));
}
function panel(run, name, runs) {
  const [url, width, height] = run.pictures[name];
  const tall = height > 1.5 * width; // its upper part is shown, at a size that can be read
  const column = COLUMNS.get(state.metric);
  const score = column && number(run, column.key) !== null ? ` · ${shown(number(run, column.key), column)}` : "";
  return el("figure", {},
    el("button", { class: tall ? "picture tall" : "picture", "data-k": `picture ${run.number} ${name}`, "aria-label": `enlarge ${name} of ${run.label}`, onclick: () => enlarge(run, name, runs) },
      el("img", { src: url, width, height, alt: `${name.replace(/_/g, " ")} of ${run.label}`, decoding: "async" })),
    el("figcaption", {}, selected.has(run) && swatch(run), el("span", { class: "name", text: run.label }), el("span", { class: "quiet", text: score + (tall ? " · upper part" : "") })));
}
function enlarge(run, name, runs) {
  large = { run, name, runs };
  const [url, width, height] = run.pictures[name];
  const image = $("large-image");
  image.src = url; image.alt = `${name.replace(/_/g, " ")} of ${run.label}`;
  image.width = width; image.height = height;
  $("large-title").textContent = `${name.replace(/_/g, " ")} · ${run.label}`;
  $("large-place").textContent = `run ${runs.indexOf(run) + 1} of ${runs.length}`;
  const link = $("large-link");
  link.href = `${run.link.split("/").map(encodeURIComponent).join("/").replace(/%2E%2E/g, "..")}/figures/${encodeURIComponent(name)}.png`;
  for (const id of ["large-back", "large-next"]) $(id).disabled = runs.length < 2;
  if (!$("large").open) $("large").showModal(); // keeps the focus inside, closes with Escape and gives the focus back
}
function turn(step) {
  const { run, name, runs } = large;
  enlarge(runs[(runs.indexOf(run) + step + runs.length) % runs.length], name, runs);
}
