// Runs once per view: writes its URL into the address bar, opens rows and products, draws figures.
const sync = () => {
  const view = element.querySelector("[data-url]");
  if (!view || !view.offsetParent) return;
  const url = new URL(view.dataset.url, location.href);
  const theme = new URL(location.href).searchParams.get("__theme");
  if (theme) url.searchParams.set("__theme", theme);
  if (url.href !== location.href) history.replaceState(null, "", url);
};
const plotly = () => {
  window.gclPlotly ||= new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, { src: "gcl/plotly.js", onload: () => done(window.Plotly), onerror: failed });
    document.head.append(script);
  });
  return window.gclPlotly;
};
const figures = async () => {
  for (const place of element.querySelectorAll("[data-figure]")) {
    const spec = JSON.parse(place.dataset.figure);
    delete place.dataset.figure;
    (await plotly()).newPlot(place, spec.data, spec.layout, spec.config);
  }
};
const drawn = () => {
  if (!element.offsetParent) return;
  sync();
  figures();
  document.dispatchEvent(new CustomEvent("gcl-drawn", { detail: element }));
};
watch("value", drawn);
new IntersectionObserver(drawn).observe(element);
element.addEventListener("click", (event) => {
  if (event.target.closest("a")) return;
  const touched = event.target.closest("[data-query], [data-item], [data-image], [data-lasso]");
  if (touched) trigger("click", { ...touched.dataset });
});
const light = (event, on) => {
  const row = event.target.closest && event.target.closest("[data-item]");
  if (!row || !row.dataset.item) return;
  for (const same of element.querySelectorAll("[data-item]"))
    same.classList.toggle("lit", on && same.dataset.item === row.dataset.item);
};
element.addEventListener("mouseover", (event) => light(event, true));
element.addEventListener("mouseout", (event) => light(event, false));
