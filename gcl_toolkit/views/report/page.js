// `config`, plotly's, stands before this script.
for (const place of document.querySelectorAll('.figure')) {
  const {data, layout} = JSON.parse(place.nextElementSibling.textContent);
  Plotly.newPlot(place, data, layout, config);
}
for (const button of document.querySelectorAll('[data-choice]')) button.onclick = () => {
  const choice = button.dataset.choice, top = button.getBoundingClientRect().top;
  for (const other of document.querySelectorAll('[data-choice]'))
    other.setAttribute('aria-pressed', other.dataset.choice === choice);
  for (const pane of document.querySelectorAll('[data-pane]')) pane.hidden = pane.dataset.pane !== choice;
  window.scrollBy(0, button.getBoundingClientRect().top - top);
};
