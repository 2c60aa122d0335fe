// Grading in place: 0 to 4 on a product of Compare, by click or digit key. The judgements go to gcl/grade; in a hosted
// demo they stay in this browser (localStorage) and can be saved as qrels.

const STORE = "gcl-grades", JUDGE = "gcl-judge";
let continuing = false; // the next view is opened to grade on

const kept = () => JSON.parse(localStorage.getItem(STORE) ?? "[]");
const pair = (line) => JSON.stringify([line.query_id, line.product_id]);
const last = (lines) => [...new Map(lines.map((line) => [pair(line), line])).values()].filter((line) => line.grade !== null);

export default function mount(panel, { announce, redraw }) {
  const view = panel.closest(".view"), local = panel.dataset.kept === "browser";
  const field = (name) => panel.querySelector(`[name=${name}]`);
  const judge = () => field("judge").value.trim() || "me";
  const report = (text) => {
    announce(text);
    document.querySelector(".grading output").textContent = text; // the view may be another one by now
  };
  const groups = () => [...view.querySelectorAll("[data-pair]")];

  const send = async (address, body) => {
    const headers = { "X-GCL": "1", "Content-Type": "text/plain" };
    const reply = await fetch(address, { method: "POST", body, headers });
    if (!reply.ok) throw new Error(await reply.text());
    return reply.json();
  };
  const safely = async (act) => {
    try {
      report(await act());
    } catch (error) {
      report(error.message);
    }
  };

  const mark = (group, grade) => {
    for (const button of group.children) {
      const on = button.dataset.grade === String(grade);
      button.setAttribute("aria-checked", on);
      button.tabIndex = on || (grade === undefined && button === group.firstElementChild) ? 0 : -1;
    }
  };
  const marked = () => {
    const lines = last(kept()), grades = new Map(lines.map((line) => [pair(line), line.grade]));
    for (const group of groups()) {
      const { pair, given } = group.dataset;
      mark(group, local ? grades.get(JSON.stringify(JSON.parse(pair))) : JSON.parse(given)[judge()]);
    }
    return local ? `${lines.length} grades are kept in this browser` : "";
  };
  const grade = (group, value) =>
    safely(async () => {
      const [query_id, product_id] = JSON.parse(group.dataset.pair);
      const again = group.querySelector("[aria-checked=true]")?.dataset.grade === String(value);
      const line = { query_id, product_id, grade: again ? null : value, judge: judge(), note: field("note").value.trim() };
      if (local) {
        localStorage.setItem(STORE, JSON.stringify([...kept(), { ...line, time: new Date().toISOString() }]));
        marked();
      } else {
        await send("gcl/grade", JSON.stringify(line));
        await redraw();
      }
      return again ? "The grade is withdrawn" : `Graded ${value}`;
    });
  const undo = () =>
    safely(async () => {
      if (local) {
        localStorage.setItem(STORE, JSON.stringify(kept().slice(0, -1)));
        return marked();
      }
      const back = await send("gcl/grade", JSON.stringify({ undo: true, judge: judge() }));
      await redraw();
      return back ? `Undone: ${back.product_id} has ${back.grade === null ? "no grade" : "grade " + back.grade}` : "Nothing to undo";
    });
  const save = (form) => {
    const names = ["query_id", "product_id", "grade", "judge", "time", "note"];
    const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const csv = (line) => names.map((name) => cell(line[name])).join(",");
    const lines = last(kept()).map((line) => (form === "csv" ? csv(line) : `${line.query_id} 0 ${line.product_id} ${line.grade}`));
    const text = [...(form === "csv" ? [names.join(",")] : []), ...lines, ""].join("\n");
    const href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    Object.assign(document.createElement("a"), { href, download: form === "csv" ? "qrels.csv" : "qrels.txt" }).click();
  };
  // The next pooled product without a grade of this query; false if it has none left.
  const next = () => {
    const open = groups().filter((group) => "open" in group.dataset && !group.querySelector("[aria-checked=true]"));
    const [first] = open.sort((one, other) => one.dataset.open - other.dataset.open);
    first?.firstElementChild.focus();
    return Boolean(first);
  };

  view.addEventListener("click", (event) => {
    const button = event.target.closest("[data-grade], [data-undo], [data-save], .grade-next");
    if (!button) return;
    if (button.dataset.grade) grade(button.parentElement, Number(button.dataset.grade));
    else if ("undo" in button.dataset) undo();
    else if (button.dataset.save) save(button.dataset.save);
    else if (next()) event.preventDefault(), event.stopPropagation();
    else continuing = true;
  });
  view.addEventListener("keydown", (event) => {
    const group = event.target.closest(".hit")?.querySelector("[data-pair]");
    if (!group || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (/^[0-4]$/.test(event.key)) grade(group, Number(event.key));
    else if (event.key === "n") view.querySelector(".grade-next")?.click();
    else if (step && event.target.dataset.grade) group.children[Number(event.target.dataset.grade) + step]?.focus();
    else return;
    event.preventDefault();
  });
  panel.addEventListener("change", ({ target }) => {
    if (target.name === "judge") localStorage.setItem(JUDGE, target.value.trim()), marked();
    if (target.type !== "file" || !target.files.length) return;
    safely(async () => {
      const added = await send("gcl/qrels?judge=" + encodeURIComponent(judge()), await target.files[0].text());
      await redraw();
      return `${added} judgements imported`;
    });
  });

  field("judge").value = localStorage.getItem(JUDGE) ?? "";
  marked();
  if (continuing) next();
  continuing = false;
}
