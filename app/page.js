// The page: the server draws it for an address; links and controls only ask for another address.
//
// How a tab's script is mounted. An element of the view with data-script="map" loads gcl/map.js, a module, and calls its
//   export default function mount(element, page)
// each time that such an element is shown. page.go({ item: "3", lasso: "" }) changes parameters of the address ("" returns
// one to its default) and redraws; page.redraw() asks for the same address again; page.announce(text) is read out by
// screen readers. If mount returns a function, it is called before the element is removed. Module variables outlive views:
// a canvas can be kept and put into the next element.

let root = null;
let asked = null; // the request under way
let latest = ""; // the control that made the latest entry of the history
let opener = ""; // id of the link that opened the details
let leaving = []; // what to call before the view is removed

const part = (id) => root.querySelector("#" + id);
const wide = matchMedia("(min-width: 721px)");

export default function start(element) {
  root = element;
  history.scrollRestoration = "manual";
  for (const [kind, act] of Object.entries({ click, change, input, submit })) root.addEventListener(kind, act);
  for (const kind of ["mouseover", "mouseout", "focusin", "focusout"]) root.addEventListener(kind, light);
  addEventListener("keydown", (event) => event.key === "Escape" && part("details") && go({ item: "" }));
  addEventListener("popstate", (event) => show(location.search, { back: true, scroll: event.state?.scroll ?? 0 }));
  addEventListener("scrollend", () => history.replaceState({ scroll: scrollY }, ""));
  wide.addEventListener("change", fold);
  show(location.search, { back: true });
}

// -- addresses ----------------------------------------------------------------------------------------------------------

// A newer change stops the request under way and keeps its changes, so no late answer takes the page back.
const go = (changes, how) => {
  const now = asked?.search ?? location.search;
  const address = new URLSearchParams(now);
  for (const [name, value] of Object.entries(changes)) value ? address.set(name, value) : address.delete(name);
  if (String(address) !== String(new URLSearchParams(now))) show("?" + address, how);
};

const show = async (search, how = {}) => {
  asked?.stop.abort();
  const mine = (asked = { search, stop: new AbortController() });
  root.setAttribute("aria-busy", "true");
  try {
    const html = await answer("gcl/view" + search, { signal: mine.stop.signal });
    if (mine === asked) swap(new DOMParser().parseFromString(html, "text/html"), how);
  } catch (error) {
    if (mine === asked) complain(error.message);
  }
  if (mine !== asked) return;
  asked = null;
  root.removeAttribute("aria-busy");
};

const redraw = () => show(asked?.search ?? location.search, { back: true });

const answer = async (address, options, again = true) => {
  const reply = await fetch(address, options);
  if (reply.status === 503 && again) {
    await new Promise((done) => setTimeout(done, 1000 * (reply.headers.get("Retry-After") || 1)));
    return answer(address, options, false);
  }
  if (!reply.ok) throw new Error(await reply.text());
  return reply.text();
};

// Relative to what was drawn: another change that is still under way is kept.
const differences = (search) => {
  const [old, now] = [part("view").dataset.url, search].map((text) => new URLSearchParams(text));
  const names = [...old.keys(), ...now.keys()].filter((name) => old.get(name) !== now.get(name));
  return Object.fromEntries(names.map((name) => [name, now.get(name) ?? ""]));
};

const remember = ({ back, control }) => {
  const address = new URLSearchParams(part("view").dataset.url);
  const theme = new URLSearchParams(location.search).get("__theme");
  if (theme) address.set("__theme", theme);
  const search = "?" + address;
  const same = control && control === latest; // a slider that is moved on
  latest = control ?? "";
  if (search !== location.search) history[back || same ? "replaceState" : "pushState"](null, "", search);
};

// -- a new view ---------------------------------------------------------------------------------------------------------

const swap = (fresh, how) => {
  const [old, focus] = [new URLSearchParams(part("view").dataset.url), document.activeElement];
  for (const leave of leaving.splice(0)) leave();
  refresh(part("controls"), fresh.getElementById("controls"));
  for (const id of ["tabs", "view"]) part(id).replaceWith(fresh.getElementById(id));
  remember(how);
  part("notice").hidden = true;
  const tab = part("view").querySelector("h2").textContent;
  document.title = tab + " – " + part("head").querySelector("h1").textContent;
  announce(tab + ". " + (part("view").querySelector(".message, .sentence")?.textContent ?? ""));
  figures();
  scripts();
  const now = new URLSearchParams(part("view").dataset.url);
  place(old, now, focus, how);
};

// Controls stay the same elements where they can, so that focus, an open list and unsent text survive.
const refresh = (form, fresh) => {
  const [nodes, nexts] = [form, fresh].map((of) => [...of.querySelectorAll(":not(option)")]);
  const shape = (all) => all.map((node) => node.tagName + node.id).join();
  if (shape(nodes) !== shape(nexts)) {
    const open = form.querySelector("details")?.open;
    form.replaceWith(fresh);
    return fold(open);
  }
  for (const [at, node] of nodes.entries()) {
    const next = nexts[at];
    for (const { name, value } of next.attributes) if (name !== "open") node.setAttribute(name, value);
    if (node.firstChild?.nodeType === Node.TEXT_NODE) node.firstChild.data = next.firstChild?.data ?? "";
    if (node.matches("select, datalist") && node.textContent !== next.textContent) node.innerHTML = next.innerHTML;
    if (!node.matches("input, select") || node.type === "file" || node.dataset.typed) continue;
    [node.value, node.checked, node.disabled] = [next.value, next.checked, next.disabled];
  }
};

const fold = (open = false) => {
  const folded = part("options");
  if (folded) folded.open = wide.matches || open === true;
};

// Focus goes into details that were opened and back to what opened them; otherwise it stays where it was.
const place = (old, now, focus, how) => {
  const opened = now.get("item") && now.get("item") !== old.get("item");
  const closed = old.get("item") && !now.get("item");
  if (opened && !old.get("item")) opener = focus.id;
  if (opened) part("details")?.focus();
  else if (closed) (document.getElementById(opener) ?? product(old.get("item")))?.focus();
  else if (focus && !focus.isConnected) (document.getElementById(focus.id) ?? part("view")).focus({ preventScroll: true });
  if (how.scroll !== undefined) scrollTo(0, how.scroll);
  else if (old.get("tab") !== now.get("tab") && !opened) scrollTo(0, Math.min(scrollY, part("tabs").offsetTop));
};

const product = (item) => part("view").querySelector('[data-item="' + item + '"] a');
const announce = (text) => (part("status").textContent = text);
const complain = (text) => Object.assign(part("notice"), { textContent: text, hidden: false });

let plotly = null;
const figures = async () => {
  for (const place of root.querySelectorAll("[data-figure]")) {
    const { data, layout, config } = JSON.parse(place.dataset.figure);
    plotly ??= new Promise((onload, onerror) =>
      document.head.append(Object.assign(document.createElement("script"), { src: "gcl/plotly.js", onload, onerror })),
    );
    await plotly;
    if (place.isConnected) window.Plotly.newPlot(place, data, layout, config);
  }
};

const scripts = async () => {
  for (const place of root.querySelectorAll("[data-script]")) {
    const address = new URL("gcl/" + place.dataset.script + ".js?v=" + root.dataset.version, document.baseURI);
    const { default: mount } = await import(address);
    if (place.isConnected) leaving.push(mount(place, { go, announce, redraw }) ?? (() => {}));
  }
};

// -- what visitors do ---------------------------------------------------------------------------------------------------

const click = (event) => {
  const link = event.target.closest("a");
  if (link) {
    if (!link.matches('[href^="?"]:not([download])') || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    return go(differences(link.search));
  }
  if (event.target.matches(".sort")) return sort(event.target.closest("th"));
  if (event.target.closest("button, input, select, label, summary")) return;
  const row = event.target.closest("[data-item], [data-query]");
  if (row) (row.querySelector('a[href^="?"]') ?? product(row.dataset.item))?.click();
};

const change = ({ target }) => {
  if (target.form !== part("controls")) return;
  delete target.dataset.typed;
  if (target.type === "file") return upload(target);
  const reset = (target.dataset.resets ?? "").split(" ").filter(Boolean);
  const ticked = () => [...target.form.querySelectorAll("[name=also]:checked")].map((box) => box.value).join();
  const value = target.type === "checkbox" ? ticked() : target.value;
  const held = ["range", "radio"].includes(target.type) ? target.name : undefined;
  go({ ...Object.fromEntries(reset.map((name) => [name, ""])), [target.name]: value }, { control: held });
};

const input = (event) => {
  const { target } = event;
  const output = target.labels?.[0]?.querySelector("output");
  if (output) output.textContent = target.value;
  else if (target.list && (!event.inputType || event.inputType === "insertReplacementText")) change(event); // a suggestion
  else if (target.type === "text") target.dataset.typed = "yes";
};

const submit = (event) => {
  event.preventDefault();
  const text = event.target.elements.query;
  if (text?.value && text === document.activeElement) change({ target: text });
};

const upload = async (control) => {
  const [file] = control.files;
  try {
    const headers = { "X-GCL": "1" }; // other sites can't send it
    go({ tab: "search", image: await answer("gcl/upload", { method: "POST", body: file, headers }) });
  } catch (error) {
    complain(error.message);
  }
  control.value = "";
};

// By the first number of each cell, or by its text; again: the other way. Cells without a value come last.
const sort = (head) => {
  const way = head.ariaSort === "descending" ? 1 : -1, { cellIndex } = head;
  const table = head.closest("table"), body = table.tBodies[0];
  const value = (row) => row.cells[cellIndex].textContent.replaceAll("−", "-").trim();
  const number = (row) => (cellIndex ? parseFloat(value(row).match(/-?[\d.]+/)?.[0].replace(/^\./, "0.")) : NaN);
  const compare = (one, other) => {
    const [a, b] = [number(one), number(other)];
    if (isNaN(a) && isNaN(b)) return way * value(one).localeCompare(value(other));
    return isNaN(a) - isNaN(b) || way * (a - b);
  };
  for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
  head.ariaSort = way < 0 ? "descending" : "ascending";
  body.append(...[...body.rows].sort(compare));
};

const light = (event) => {
  const row = event.target.closest("[data-item]");
  if (!row) return;
  for (const same of part("view").querySelectorAll('[data-item="' + row.dataset.item + '"]'))
    same.classList.toggle("lit", ["mouseover", "focusin"].includes(event.type));
};
