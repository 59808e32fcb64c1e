// Everything is drawn anew after each change; the focus stays on the control that made it.

function render() {
  const key = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.k : null;
  hideTip();
  overview(); table(); scatter(); curves(); diff(); images();
  const shownCount = shownRuns().length;
  $("status").textContent = `${shownCount === RUNS.length ? `${RUNS.length} runs` : `${shownCount} of ${RUNS.length} runs`}, ${selected.size} selected`;
  $("clear").disabled = !selected.size;
  $("group").checked = Boolean(state.group);
  $("means").checked = Boolean(state.means);
  if ($("filter").value !== state.filter) $("filter").value = state.filter;
  fill($("metric"), [...COLUMNS.values()].filter(column => column.numeric && column.kind !== "config" && column.filled).map(column => [column.key, column.label, ""]), state.metric);
  $("sense").value = lowerIsBetter() ? "low" : "high";
  if (key && !document.activeElement.isConnected || key && document.activeElement === document.body) focusAgain(key);
}
function focusAgain(key) {
  const node = [...document.querySelectorAll("[data-k]")].find(node => node.dataset.k === key);
  if (node) node.focus({ preventScroll: true });
}
const changed = () => { writeHash(); render(); };
const set = changes => { Object.assign(state, changes); changed(); };
function pick(runs, on) { runs.forEach(run => on ? selected.add(run) : selected.delete(run)); changed(); }
function choose(runs) { selected.clear(); runs.forEach(run => selected.add(run)); changed(); }

function wire() {
  const chosen = (id, key = id) => $(id).addEventListener("change", event => set({ [key]: event.target.value }));
  const ticked = (id, key = id) => $(id).addEventListener("change", event => set({ [key]: event.target.checked ? "1" : "" }));
  ["color", "xscale", "yscale", "curve", "cx", "a", "b", "figure", "sense"].forEach(id => chosen(id));
  ["group", "means", "clog", "all"].forEach(id => ticked(id));
  $("x").addEventListener("change", event => set({ x: event.target.value, xscale: "" }));
  $("y").addEventListener("change", event => set({ y: event.target.value, yscale: "" }));
  $("metric").addEventListener("change", event => set({ metric: event.target.value, sense: "" }));
  $("smooth").addEventListener("input", event => set({ smooth: event.target.value }));
  $("filter").addEventListener("input", event => set({ filter: event.target.value }));
  $("clear").addEventListener("click", () => choose([]));
  $("select-shown").addEventListener("click", () => choose(shownRuns()));
  $("images-more").addEventListener("click", () => { allColumns = !allColumns; render(); });
  $("large-close").addEventListener("click", () => $("large").close());
  $("large-back").addEventListener("click", () => turn(-1));
  $("large-next").addEventListener("click", () => turn(1));
  $("large").addEventListener("click", event => { if (event.target === $("large")) $("large").close(); });
  $("large").addEventListener("keydown", event => { const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key]; if (step) { event.preventDefault(); turn(step); } });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });
  // Links within the page move there and leave the address, which keeps the view, as it is.
  document.querySelectorAll('a[href^="#"]').forEach(link => link.addEventListener("click", event => {
    event.preventDefault();
    const part = document.querySelector(link.getAttribute("href"));
    part.tabIndex = -1;
    part.focus({ preventScroll: true });
    part.scrollIntoView();
  }));
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("hashchange", () => { readHash(); columnChooser(); render(); });
  let wide = innerWidth, waiting = 0;
  addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; clearTimeout(waiting); waiting = setTimeout(render, 80); } });
}

readHash();
wire();
columnChooser();
render();
document.documentElement.classList.add("ready");
