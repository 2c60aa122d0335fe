// Runs once for every view: its URL goes into the address bar, rows of queries open, a product lights up everywhere.
const sync = () => {
  const view = element.querySelector("[data-url]");
  if (!view || !view.offsetParent) return;
  const url = new URL(view.dataset.url, location.href);
  const theme = new URL(location.href).searchParams.get("__theme");
  if (theme) url.searchParams.set("__theme", theme);
  history.replaceState(null, "", url);
};
watch("value", sync);
new IntersectionObserver(sync).observe(element);
element.addEventListener("click", (event) => {
  const row = event.target.closest("[data-query]");
  if (row) trigger("click", { query: row.dataset.query });
});
const light = (event, on) => {
  const row = event.target.closest && event.target.closest("[data-item]");
  if (!row) return;
  for (const same of element.querySelectorAll("[data-item]"))
    same.classList.toggle("lit", on && same.dataset.item === row.dataset.item);
};
element.addEventListener("mouseover", (event) => light(event, true));
element.addEventListener("mouseout", (event) => light(event, false));
