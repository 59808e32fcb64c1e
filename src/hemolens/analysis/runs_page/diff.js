// Two configs side by side.

function diffPair() {
  const chosen = RUNS.filter(run => selected.has(run));
  const best = bestRun(RUNS);
  const find = (text, other) => (text !== "" && RUNS[Number(text)]) || other;
  const a = find(state.a, chosen[0] || best || RUNS[0]);
  const b = find(state.b, chosen.find(run => run !== a) || bestRun(RUNS.filter(run => run !== a)) || RUNS.find(run => run !== a) || a);
  return [a, b];
}
function diff() {
  const [a, b] = diffPair();
  const entries = RUNS.map(run => [String(run.number), run.label, ""]);
  fill($("a"), entries, String(a.number));
  fill($("b"), entries, String(b.number));
  $("all").checked = Boolean(state.all);
  const config = run => ({ ...DATA.common, ...run.config });
  const [left, right] = [config(a), config(b)];
  const keys = [...new Set([...Object.keys(left), ...Object.keys(right)])].sort();
  const facts = ["state", "job", "commit", "device", "command"].map(key => diffRow(key, a.about[key], b.about[key], true, true, "of the run"));
  const rows = keys.map(key => diffRow(key, left[key], right[key], key in left, key in right));
  const differ = rows.filter(row => row.kind !== "same");
  const kept = [...facts, ...rows].filter(row => row.kind !== "same" || state.all);
  $("diff").replaceChildren(
    el("caption", { class: "sr", text: "Keys of two configs side by side" }),
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "mark" }, el("span", { class: "sr", text: "difference" })), el("th", { scope: "col", text: "key" }),
      el("th", { scope: "col" }, `A: ${a.label}`), el("th", { scope: "col" }, `B: ${b.label}`))),
    el("tbody", {}, kept.map(row => row.tr)));
  $("diff").hidden = kept.length === 0;
  $("diff-note").textContent = a === b ? "A and B are the same run."
    : `${differ.length} of ${keys.length} config keys differ${differ.length ? "" : ": the runs have the same config"}. ≠ changed, − only in A, + only in B.`;
}
function diffRow(key, left, right, inLeft, inRight) {
  const [a, b] = [left, right].map(value => value === undefined ? null : value);
  const kind = inLeft && !inRight ? "removed" : !inLeft && inRight ? "added" : JSON.stringify(a) === JSON.stringify(b) ? "same" : "changed";
  const marks = { removed: ["−", "only in A"], added: ["+", "only in B"], changed: ["≠", "changed"], same: ["", ""] };
  const words = (value, there) => !there ? "" : value === null ? "null" : value === "" ? "–" : plain(value);
  return { kind, tr: el("tr", { class: kind },
    el("td", { class: "mark", title: marks[kind][1] }, el("span", { "aria-hidden": "true", text: marks[kind][0] }), el("span", { class: "sr", text: marks[kind][1] })),
    el("th", { scope: "row", text: key }), el("td", { class: "a", text: words(a, inLeft) }), el("td", { class: "b", text: words(b, inRight) })) };
}
