// A form with data-call shows what that Python function returns for its values; one with data-check is an exercise.
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let calls = 0;
const start = performance.now();
worker.onmessage = ({ data }) => {
  if (data.ready) return document.body.classList.add("ready"), console.log(`ready after ${performance.now() - start} ms`);
  if (data.failed) return (document.querySelector("#loading").textContent = `Python can't start: ${data.failed}`);
  const { done, failed } = waiting.get(data.call);
  waiting.delete(data.call);
  data.error ? failed(new Error(data.error)) : done(data.result);
};
const python = (name, args) =>
  new Promise((done, failed) => {
    waiting.set(++calls, { done, failed });
    worker.postMessage({ call: calls, name, args });
  });

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

for (const form of document.querySelectorAll("form[data-check]")) {
  form.insertAdjacentHTML("beforeend", '<button type="submit">Check</button><p class="result" role="status"></p>');
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.classList.remove("right", "wrong");
    form.querySelector(".result").textContent = "Checking …"; // after other calls, which can take seconds on a phone
    try {
      const [right, words] = await python(form.dataset.check, [form.id, ...values(form)]);
      form.classList.toggle("right", right);
      form.classList.toggle("wrong", !right);
      form.querySelector(".result").textContent = words;
    } catch (error) { form.querySelector(".result").textContent = error.message; }
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
