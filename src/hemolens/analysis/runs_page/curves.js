// Histories over each other.

// A run's steps as epochs: within an epoch they grow evenly.
function epochOf(run, step) {
  const marks = run.epochs;
  if (marks.length < 2) return null;
  let k = marks.findIndex(mark => mark[0] > step);
  if (k < 0) k = marks.length - 1;
  if (k === 0) return marks[0][1];
  const [[s0, e0], [s1, e1]] = [marks[k - 1], marks[k]];
  return e0 + (e1 - e0) * (step - s0 + 1) / (s1 - s0);
}
// Exponential mean without the pull of its start, as dashboards smooth.
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map(value => { sum = weight * sum + (1 - weight) * value; norm = weight * norm + (1 - weight); return sum / norm; });
}
function curveOf(run) {
  const found = run.curves[state.curve];
  if (!found) return null;
  let [xs, ys] = found;
  if (state.cx === "epoch") {
    if (run.epochs.length < 2) return null;
    xs = xs.map(step => epochOf(run, step));
  }
  const kept = state.clog ? ys.map(value => value > 0) : null;
  if (kept) { xs = xs.filter((_, k) => kept[k]); ys = ys.filter((_, k) => kept[k]); }
  return xs.length ? { run, xs, raw: ys, ys: smoothed(ys, Number(state.smooth)) } : null;
}
// Mean and spread over seeds, where all of them have values.
function bandOf(curves) {
  const low = Math.max(...curves.map(curve => curve.xs[0]));
  const high = Math.min(...curves.map(curve => curve.xs[curve.xs.length - 1]));
  if (!(high > low)) return null;
  const count = Math.min(200, Math.max(...curves.map(curve => curve.xs.length)));
  const xs = Array.from({ length: count }, (_, k) => low + (high - low) * k / Math.max(1, count - 1));
  const at = xs.map(x => curves.map(curve => valueAt(curve, x)));
  const ys = at.map(mean);
  const sds = at.map(values => values.length > 1 ? deviation(values) : 0);
  return { xs, ys, raw: ys, low: ys.map((y, k) => y - sds[k]), high: ys.map((y, k) => y + sds[k]) };
}
function valueAt(curve, x) {
  const { xs, ys } = curve;
  let [a, b] = [0, xs.length - 1];
  if (x <= xs[a]) return ys[a];
  if (x >= xs[b]) return ys[b];
  while (b - a > 1) { const middle = (a + b) >> 1; if (xs[middle] <= x) a = middle; else b = middle; }
  return ys[a] + (ys[b] - ys[a]) * (x - xs[a]) / (xs[b] - xs[a] || 1);
}

function lines() {
  const runs = activeRuns();
  const styles = lineStyles(runs);
  const single = runs.map(curveOf).filter(Boolean);
  if (!state.group) return single.map(curve => ({ ...curve, key: `run ${curve.run.number}`, label: curve.run.label, runs: [curve.run], ...styles.get(curve.run) }));
  const groups = groupsOf(single.map(curve => curve.run)).map(group => ({ group, band: bandOf(single.filter(curve => group.runs.includes(curve.run))) })).filter(({ band }) => band);
  const looks = lineStyles(groups);
  return groups.map(entry => ({ ...entry.band, key: `group ${entry.group.key}`, label: `${entry.group.label} (n = ${entry.group.runs.length})`, runs: entry.group.runs, ...looks.get(entry) }));
}

let cursorX = null; // where the values in the legend are read
function curves() {
  const host = $("curves");
  fill($("curve"), curveNames.map(name => [name, name, name.includes("/") ? name.split("/")[0] : "others"]), state.curve);
  $("cx").value = state.cx; $("clog").checked = Boolean(state.clog); $("smooth").value = state.smooth;
  $("smooth-value").textContent = Number(state.smooth) ? state.smooth : "off";
  const all = curveNames.length ? lines() : [];
  const visible = all.filter(line => !hidden.has(line.key));
  legend(all);
  const without = activeRuns().filter(run => !run.curves[state.curve]).length;
  $("curves-note").textContent = [selected.size ? `Of the ${selected.size} selected runs.` : "Of all runs shown; select runs to see theirs alone.",
    without && `${without} without ${state.curve || "a history"}.`, state.group && "Bands are ± one standard deviation over seeds, as far as all seeds of a group have values."].filter(Boolean).join(" ");
  if (!visible.length) { host.replaceChildren(el("p", { class: "empty", text: all.length ? "All curves are switched off in the legend." : "No history of this metric: choose another, or other runs." })); return; }
  const width = chartWidth(host), height = chartHeight(width);
  const values = visible.flatMap(line => (line.low ? [...line.low, ...line.high] : line.raw)).filter(value => !state.clog || value > 0);
  const ends = visible.flatMap(line => [line.xs[0], line.xs[line.xs.length - 1]]);
  const scales = [linearScale(ends), state.clog ? logScale(values) : linearScale(values)];
  const svg = sv("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", tabindex: 0, "data-k": "curves",
    "aria-label": `${state.curve} over ${state.cx} of ${visible.length} ${state.group ? "groups" : "runs"}; arrow keys move the line at which the legend reads values` });
  const { px, py, inner } = frame(svg, width, height, scales[0], scales[1], state.cx, state.curve);
  svg.append(sv("clipPath", { id: "inside" }, sv("rect", { x: inner.x, y: inner.y, width: inner.width, height: inner.height })));
  const path = (xs, ys) => xs.map((x, k) => `${k ? "L" : "M"}${px(x).toFixed(1)} ${py(ys[k]).toFixed(1)}`).join("");
  const bottom = least(values);
  const floor = value => state.clog ? Math.max(value, bottom) : value;
  svg.append(sv("g", { "clip-path": "url(#inside)" }, visible.map(line => [
    line.low && sv("path", { class: "band", d: `${path(line.xs, line.high)}${path([...line.xs].reverse(), [...line.low].reverse().map(floor)).replace("M", "L")}Z`, style: { fill: line.color } }),
    !line.low && Number(state.smooth) ? sv("path", { class: "faint", d: path(line.xs, line.raw), style: { stroke: line.color } }) : null,
    sv("path", { class: "curve", "data-line": line.key, d: path(line.xs, line.ys), "stroke-dasharray": line.dash || null, style: { stroke: line.color } })])));
  const cursor = sv("line", { class: "cursor", y1: inner.y, y2: inner.y + inner.height, visibility: "hidden" });
  svg.append(cursor);
  const [first, last] = [Math.min(...ends), Math.max(...ends)];
  const moveTo = x => {
    cursorX = x === null ? null : Math.min(last, Math.max(first, x));
    cursor.setAttribute("visibility", cursorX === null ? "hidden" : "visible");
    if (cursorX !== null) { cursor.setAttribute("x1", px(cursorX)); cursor.setAttribute("x2", px(cursorX)); }
    readout(all);
  };
  const toValue = event => { const box = svg.getBoundingClientRect(); return [first + ((event.clientX - box.left - px(first)) / (px(last) - px(first) || 1)) * (last - first), event.clientY - box.top]; };
  svg.addEventListener("pointermove", event => {
    const [x, y] = toValue(event);
    if (x < first || x > last) return;
    moveTo(x);
    const near = visible.map(line => ({ line, far: Math.abs(py(valueAt(line, x)) - y) })).sort((a, b) => a.far - b.far)[0];
    emphasize(near.far < 40 ? near.line.key : null);
    if (near.far < 40) showTip([near.line.label, `${state.curve}: ${short(valueAt(near.line, x))}`, `${state.cx}: ${short(state.cx === "step" ? Math.round(x) : x)}`], event.clientX, event.clientY);
    else hideTip();
  });
  svg.addEventListener("pointerleave", () => { hideTip(); emphasize(null); moveTo(null); });
  svg.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    moveTo(cursorX === null ? (step > 0 ? first : last) : cursorX + step * (last - first) / 40);
  });
  host.replaceChildren(svg);
  if (cursorX !== null) moveTo(cursorX);
}
function emphasize(key) {
  $("curves").classList.toggle("focus", key !== null);
  $("curves").querySelectorAll(".curve").forEach(path => path.classList.toggle("strong", path.dataset.line === key));
}
function legend(all) {
  $("curves-legend").replaceChildren(...all.map(line => el("li", {},
    el("button", { "data-k": `line ${line.key}`, "aria-pressed": String(!hidden.has(line.key)), title: "show or hide this curve",
      onclick: () => { if (!hidden.delete(line.key)) hidden.add(line.key); render(); },
      onpointerenter: () => emphasize(line.key), onpointerleave: () => emphasize(null), onfocus: () => emphasize(line.key), onblur: () => emphasize(null) },
      sv("svg", { width: 26, height: 10, "aria-hidden": "true" }, sv("line", { x1: 1, x2: 25, y1: 5, y2: 5, "stroke-dasharray": line.dash || null, style: { stroke: line.color, "stroke-width": "3px" } })),
      el("span", { class: "name", text: line.label })),
    el("span", { class: "value", "data-line": line.key }))));
  readout(all);
}
function readout(all) {
  $("curves-at").textContent = cursorX === null ? "last value" : `at ${state.cx} ${short(state.cx === "step" ? Math.round(cursorX) : cursorX)}`;
  for (const node of $("curves-legend").querySelectorAll(".value")) {
    const line = all.find(line => line.key === node.dataset.line);
    const inside = cursorX === null || (cursorX >= line.xs[0] && cursorX <= line.xs[line.xs.length - 1]);
    node.textContent = inside ? short(cursorX === null ? line.ys[line.ys.length - 1] : valueAt(line, cursorX)) : "–";
  }
}
