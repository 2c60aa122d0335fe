// A form with data-call shows what that Python function returns for its values; one with data-check is an exercise.
const LIMIT = 20; // seconds for a call; a student's loop may never end
const queue = []; // calls, the first is running; a worker can't be interrupted, but terminated
let worker, ready, limit;
const start = performance.now();

function next() {
  if (!ready || !queue.length) return;
  worker.postMessage({ name: queue[0].name, args: queue[0].args });
  limit = setTimeout(stop, LIMIT * 1000, `Stopped after ${LIMIT} s. Does a loop in your code never end?`);
}

function ended({ result, error }) {
  clearTimeout(limit);
  const { done, failed } = queue.shift();
  error ? failed(new Error(error)) : done(result);
  next();
}

function stop(why) {
  worker.onmessage = worker.onerror = null;
  worker.terminate();
  startPython();
  ended({ error: `${why} Your code is still here; Python is starting again.` });
}

function startPython() {
  ready = false;
  worker = new Worker("worker.js", { type: "module" });
  worker.onerror = () => worker.onmessage({ data: { failed: "its worker could not be loaded" } });
  worker.onmessage = ({ data }) => {
    if (data.failed) return (document.querySelector("#loading").textContent = `Python can't start: ${data.failed}`);
    if (data.broken) return stop(data.broken);
    if (!data.ready) return ended(data);
    ready = true;
    document.body.classList.add("ready");
    console.log(`ready after ${performance.now() - start} ms`);
    next();
  };
}
startPython();

const python = (name, args) =>
  new Promise((done, failed) => queue.push({ name, args, done, failed }) === 1 && next());

const values = (form) =>
  [...form.elements].filter((e) => e.name && (e.type !== "radio" || e.checked)).map((e) => (isNaN(e.value) || e.value === "" || form.dataset.check ? e.value : +e.value));
const show = (form, html) => (form.querySelector(".result").innerHTML = html);

for (const form of document.querySelectorAll("form[data-call]")) {
  let busy = false, again = false;
  const draw = async () => {
    for (const input of form.querySelectorAll("input[type=range]")) input.nextElementSibling.value = input.value;
    if (busy) return void (again = true); // the newest values win
    busy = true;
    try { show(form, await python(form.dataset.call, values(form))); } catch (error) { show(form, `<p role="alert">${error.message}</p>`); }
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) form.querySelectorAll("animateTransform").forEach((move) => move.beginElement());
    busy = false;
    if (again) (again = false), draw();
  };
  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.closest("details")?.addEventListener("toggle", draw);
  draw();
}

let kept = null; // stays so where the browser blocks it
try { kept = localStorage; } catch {}
for (const form of document.querySelectorAll("form[data-check]")) {
  form.insertAdjacentHTML("beforeend", '<button type="submit">Check</button> <button type="button" class="stop">Stop</button><p class="result" role="status"></p>');
  const result = form.querySelector(".result"), code = form.querySelector("textarea");
  if (code && kept) { // survives a reload; an empty one starts again
    code.value = kept.getItem(form.id) || code.value;
    code.addEventListener("input", () => kept.setItem(form.id, code.value));
  }
  form.querySelector(".stop").onclick = () => {
    const place = queue.findIndex((call) => call.args[0] === form.id);
    if (ready && place === 0) stop("Stopped.");
    else queue.splice(place, 1)[0].failed(new Error("Stopped before it began."));
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.classList.contains("busy")) return;
    form.classList.remove("right", "wrong");
    form.classList.add("busy");
    result.textContent = "Checking …"; // after other calls, which can take seconds on a phone
    try {
      const [right, words] = await python(form.dataset.check, [form.id, ...values(form)]);
      form.classList.add(right ? "right" : "wrong");
      result.textContent = words;
    } catch (error) { result.textContent = error.message; }
    form.classList.remove("busy");
  });
}

// A list to sort, by dragging or with its buttons; the order is the value of a hidden input.
for (const list of document.querySelectorAll("ol.sortable")) {
  const input = document.getElementById(list.dataset.input);
  const changed = () => {
    input.value = [...list.children].map((item) => item.querySelector("select")?.value ?? item.dataset.grade).join(" ");
    input.form.dispatchEvent(new Event("input", { bubbles: true }));
  };
  let dragged;
  for (const item of list.children) {
    item.draggable = true;
    item.insertAdjacentHTML("beforeend", '<span><button type="button" aria-label="up">▲</button><button type="button" aria-label="down">▼</button></span>');
    const [up, down] = item.querySelectorAll("button");
    const move = (button, other, where) => { if (other) { other[where](item); button.focus(); changed(); } };
    up.onclick = () => move(up, item.previousElementSibling, "before");
    down.onclick = () => move(down, item.nextElementSibling, "after");
    item.ondragstart = () => (dragged = item);
    item.ondragover = (event) => {
      event.preventDefault();
      if (dragged && dragged !== item) item[dragged.compareDocumentPosition(item) & 4 ? "after" : "before"](dragged);
    };
    item.ondragend = changed;
  }
  list.addEventListener("input", (event) => { event.stopPropagation(); changed(); });
}
