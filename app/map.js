// The map: a frame for each system, with its points on one canvas (WebGL2, or 2D where there is none) and edges,
// pictures and the lasso on a second one above. It outlives the views, so that place and zoom survive: `mount` puts it
// into the new view, whose data-map says what to show. The addresses are those of routes.py.
const SHADER = [
  "#version 300 es",
  "in vec2 place; in uint colour; in float chosen; uniform vec3 view; uniform vec2 half_size; uniform vec4 palette[32];",
  "uniform float size, items, choosing; out vec4 ink; flat out float query;",
  "void main() { gl_Position = vec4((place - view.xy) * view.z / half_size, 0., 1.);",
  "query = float(gl_VertexID) >= items ? 1. : 0.; gl_PointSize = size * (1. + .5 * query);",
  "ink = palette[min(colour, 31u)]; if (choosing > 0. && chosen == 0.) ink.a *= .12; ink.rgb *= ink.a; }",
];
const INK = [
  "#version 300 es",
  "precision mediump float; in vec4 ink; flat in float query; out vec4 colour;",
  "void main() { vec2 at = abs(gl_PointCoord - .5); float far = query > 0. ? at.x + at.y : length(at);",
  "if (far > .5) discard; colour = far > .38 && query > 0. ? vec4(1., 1., 1., ink.a) : ink; }",
];
const HIDDEN = 255; // queries of other splits
const PICTURES = 60;
const SIDE = 46;
const SLOW = 30; // milliseconds: from there on, a moving map is the last drawing, moved, until it rests
const REST = 150;
const KEYS = "Arrow keys move, plus and minus zoom, 0 shows all, Enter opens the ringed point.";

const make = (tag, name, parent, facts = {}) => {
  const node = Object.assign(document.createElement(tag), { className: name }, facts);
  parent?.append(node);
  return node;
};
const root = make("div", "map");
const bar = make("div", "map-bar", root);
const frames = make("div", "frames", root);
const tip = make("div", "tip", root, { ariaHidden: "true" });
const about = new Map();
const images = new Map();
const view = { x: 0, y: 0, zoom: 1 };
let page = null;
let facts = null;
let panels = [];
let turn = 0; // of mounting: an older one that waits for its points gives up
let colours = new Uint8Array();
let chosen = new Uint8Array();
let order = new Uint32Array(); // rows from the lowest to the topmost
let palette = new Float32Array(128);
let levels = [];
let drawn = { ...view };
let slow = false;
let lassoing = false;
let path = [];
let wanted = 0;

const button = (text, label, act) => {
  const node = make("button", "", bar, { type: "button", textContent: text, ariaLabel: label, title: label });
  node.addEventListener("click", act);
  return node;
};
const setLasso = (on) => {
  lassoing = on;
  lasso.ariaPressed = String(on);
  frames.classList.toggle("lassoing", on);
};
const lasso = button("Lasso", "Lasso: select points by drawing around them", () => setLasso(!lassoing));
button("Select shown", "Select shown: all points of the first map that are in view", () => {
  const [box] = panels;
  const corners = [[0, 0], [box.stage.clientWidth, 0], [box.stage.clientWidth, box.stage.clientHeight], [0, box.stage.clientHeight]];
  select(box, corners);
});
button("+", "Zoom in", () => zoom(1.6));
button("−", "Zoom out", () => zoom(1 / 1.6));
button("Reset view", "Reset view: show all points", () => reset());
setLasso(false);
const note = make("p", "note", bar);

// -- a frame ------------------------------------------------------------------------------------------------------------

const panel = async (model, letter, version) => {
  const box = make("figure", "frame");
  const caption = make("figcaption", "", box, { textContent: letter + " " + model });
  const stage = make("div", "stage", box, { tabIndex: 0, role: "application", id: "map-" + letter });
  const pane = { model, letter, box, stage, caption, below: make("canvas", "points", stage), above: make("canvas", "marks", stage) };
  pane.over = pane.above.getContext("2d");
  const answer = await fetch("gcl/points/" + encodeURIComponent(model) + "?v=" + version);
  if (!answer.ok) throw new Error(await answer.text());
  pane.points = new Float32Array(await answer.arrayBuffer());
  prepare(pane, pane.below.getContext("webgl2", { antialias: false }));
  listen(pane);
  return pane;
};
// Without WebGL2, or once it is lost, the points are drawn in 2D: on a new canvas, as one has a single kind of context.
const prepare = (pane, gl) => {
  pane.box.dataset.renderer = gl ? "webgl2" : "2d";
  if (gl) {
    Object.assign(pane, webgl(gl));
    fill(pane, 0, pane.points, 2, gl.FLOAT);
    pane.below.addEventListener("webglcontextlost", () => panels.includes(pane) && (prepare(pane, null), draw()));
    return;
  }
  const fresh = make("canvas", "points");
  pane.below.replaceWith(fresh);
  Object.assign(pane, { gl: null, below: fresh, plain: fresh.getContext("2d") });
  note.textContent = "This browser offers no WebGL2: points are drawn as squares by the processor, more slowly.";
};
const webgl = (gl) => {
  const program = gl.createProgram();
  for (const [kind, lines] of [[gl.VERTEX_SHADER, SHADER], [gl.FRAGMENT_SHADER, INK]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, lines.join("\n"));
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  ["place", "colour", "chosen"].forEach((name, at) => gl.bindAttribLocation(program, at, name));
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  return { gl, at: (name) => gl.getUniformLocation(program, name), buffers: [0, 1, 2, 3].map(() => gl.createBuffer()) };
};
const fill = ({ gl, buffers }, at, data, size, kind) => {
  gl.bindBuffer(gl.ARRAY_BUFFER, buffers[at]);
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(at);
  if (at === 1) gl.vertexAttribIPointer(at, size, kind, 0, 0);
  else gl.vertexAttribPointer(at, size, kind, false, 0, 0);
};
const refill = (pane) => {
  const { gl, buffers } = pane;
  if (!gl) return;
  fill(pane, 1, colours, 1, gl.UNSIGNED_BYTE);
  fill(pane, 2, chosen, 1, gl.UNSIGNED_BYTE);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers[3]);
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.STATIC_DRAW);
};
// What is listed for the query, or differs, lies over the rest; what is chosen over what is not; queries over products.
const sort = () => {
  const level = new Uint8Array(256);
  facts.over.forEach((colour, at) => (level[colour] = at + 1));
  const layers = Array.from({ length: 64 }, () => []);
  for (let row = 0; row < colours.length; row++)
    if (colours[row] !== HIDDEN) layers[(row < facts.items ? level[colours[row]] : 15) + 16 * chosen[row]].push(row);
  order = Uint32Array.from(layers.flat());
};

// -- drawing ------------------------------------------------------------------------------------------------------------

const scale = ({ stage }) => (view.zoom * Math.min(stage.clientWidth, stage.clientHeight)) / 2.15;
const toScreen = (pane, x, y) => [
  pane.stage.clientWidth / 2 + (x - view.x) * scale(pane),
  pane.stage.clientHeight / 2 - (y - view.y) * scale(pane),
];
const onScreen = (pane, row) => toScreen(pane, pane.points[2 * row], pane.points[2 * row + 1]);
const onMap = (pane, x, y) => [
  view.x + (x - pane.stage.clientWidth / 2) / scale(pane),
  view.y - (y - pane.stage.clientHeight / 2) / scale(pane),
];
const dot = () => Math.max(2, Math.min(7, 200 / Math.sqrt(facts.items))) * Math.min(2, view.zoom ** 0.3);
let due = 0;
let resting = 0;
const draw = () => (due ||= requestAnimationFrame(drawNow));
const drawNow = () => {
  due = 0;
  clearTimeout(resting);
  if (!facts || !root.offsetParent) return;
  const start = performance.now();
  drawn = { ...view };
  for (const pane of panels) {
    for (const canvas of [pane.below, pane.above]) {
      const [width, height] = [pane.stage.clientWidth, pane.stage.clientHeight].map((side) => Math.round(side * devicePixelRatio));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      canvas.style.transform = "";
    }
    (pane.gl ? drawPoints : drawPlain)(pane);
    drawOver(pane);
  }
  slow = performance.now() - start > SLOW;
  root.dataset.milliseconds = String(Math.round(performance.now() - start));
};
const moved = () => {
  if (!slow) return draw();
  for (const pane of panels) {
    const s = scale(pane);
    const by = "translate(" + (drawn.x - view.x) * s + "px, " + (view.y - drawn.y) * s + "px) scale(" + view.zoom / drawn.zoom + ")";
    for (const canvas of [pane.below, pane.above]) canvas.style.transform = by;
  }
  clearTimeout(resting);
  resting = setTimeout(draw, REST);
};
const drawPoints = (pane) => {
  const { gl, at } = pane;
  gl.viewport(0, 0, pane.below.width, pane.below.height);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.uniform3f(at("view"), view.x, view.y, scale(pane));
  gl.uniform2f(at("half_size"), pane.stage.clientWidth / 2, pane.stage.clientHeight / 2);
  gl.uniform4fv(at("palette"), palette);
  gl.uniform1f(at("size"), dot() * devicePixelRatio);
  gl.uniform1f(at("items"), facts.items);
  gl.uniform1f(at("choosing"), facts.chosen ? 1 : 0);
  gl.drawElements(gl.POINTS, order.length, gl.UNSIGNED_INT, 0);
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for the GPU, so that the measured time is right
};
const css = (colour, alpha) => {
  const [r, g, b] = palette.slice(4 * colour, 4 * colour + 3).map((part) => 255 * part);
  return "rgb(" + [r, g, b].join(" ") + " / " + alpha + ")";
};
const drawPlain = (pane) => {
  const [context, side, s] = [pane.plain, dot(), scale(pane)];
  const [middle, centre] = [pane.stage.clientWidth / 2, pane.stage.clientHeight / 2];
  const inks = Array.from({ length: 64 }, (_, kind) => css(kind % 32, kind < 32 ? 0.85 : 0.12));
  context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  context.clearRect(0, 0, 2 * middle, 2 * centre);
  let last = -1;
  for (const row of order) {
    const [x, y] = [middle + (pane.points[2 * row] - view.x) * s, centre - (pane.points[2 * row + 1] - view.y) * s];
    if (x < -side || y < -side || x > 2 * middle + side || y > 2 * centre + side) continue;
    const kind = colours[row] + (facts.chosen && !chosen[row] ? 32 : 0);
    if (kind !== last) context.fillStyle = inks[kind];
    last = kind;
    const size = row < facts.items ? side : 1.5 * side;
    context.fillRect(x - size / 2, y - size / 2, size, size);
  }
};
const drawOver = (pane) => {
  const over = pane.over;
  over.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  over.clearRect(0, 0, pane.stage.clientWidth, pane.stage.clientHeight);
  if (facts.query !== null) {
    const start = onScreen(pane, facts.items + facts.query);
    for (const [row, level] of [...facts.edges].reverse()) line(over, [start, onScreen(pane, row)], levels[level], 1 + level / 2);
    ring(over, start, levels[5], 9);
  }
  for (const row of inView(pane) ?? []) paint(pane, row);
  if (facts.item !== null) for (const row of [...facts.near, facts.item]) ring(over, onScreen(pane, row), levels[5], row === facts.item ? 10 : 6);
  if (aimed(pane)) ring(over, onScreen(pane, aim(pane)), levels[6], 13);
  const held = path.length ? (path.pane === pane ? path : []) : corners(pane);
  if (held.length > 1) line(over, [...held, held[0]], levels[5], 2);
};
const line = (over, places, colour, width) => {
  over.beginPath();
  places.forEach(([x, y]) => over.lineTo(x, y));
  Object.assign(over, { strokeStyle: colour, lineWidth: width });
  over.stroke();
};
const ring = (over, [x, y], colour, radius) => {
  over.beginPath();
  over.arc(x, y, radius, 0, 2 * Math.PI);
  Object.assign(over, { strokeStyle: colour, lineWidth: 2.5 });
  over.stroke();
};
const corners = (pane) => {
  const [letter, points] = facts.lasso.split(":");
  if (!points || letter !== pane.letter.toLowerCase()) return [];
  return points.split(";").map((corner) => toScreen(pane, ...corner.split(",").map(Number)));
};
const inView = (pane) => {
  if (view.zoom < 1.5) return null;
  const [left, top] = onMap(pane, 0, 0);
  const [right, bottom] = onMap(pane, pane.stage.clientWidth, pane.stage.clientHeight);
  const rows = [];
  for (let row = 0; row < facts.items && rows.length <= PICTURES; row++) {
    const [x, y] = [pane.points[2 * row], pane.points[2 * row + 1]];
    if (x > left && x < right && y > bottom && y < top) rows.push(row);
  }
  return rows.length <= PICTURES ? rows : null;
};
const source = (row) => "gcl/picture/" + row + "?v=" + facts.version;
const paint = (pane, row) => {
  let image = images.get(row);
  if (!image) {
    image = Object.assign(new Image(), { onload: draw, src: source(row) });
    images.set(row, image);
  }
  if (!image.naturalWidth) return;
  const [x, y] = onScreen(pane, row);
  pane.over.drawImage(image, x - SIDE / 2, y - SIDE / 2, SIDE, SIDE);
  Object.assign(pane.over, { strokeStyle: css(colours[row], 1), lineWidth: 3 });
  pane.over.strokeRect(x - SIDE / 2, y - SIDE / 2, SIDE, SIDE);
};

// -- moving and choosing ------------------------------------------------------------------------------------------------

const reset = () => {
  Object.assign(view, { x: 0, y: 0, zoom: 1 });
  draw();
};
const pan = (pane, x, y) => {
  view.x -= x / scale(pane);
  view.y += y / scale(pane);
  moved();
};
const zoom = (factor, pane, x, y) => {
  const before = pane ? onMap(pane, x, y) : null;
  view.zoom = Math.max(0.5, Math.min(400, view.zoom * factor));
  if (before) {
    const after = onMap(pane, x, y);
    view.x += before[0] - after[0];
    view.y += before[1] - after[1];
  }
  moved();
};
const nearest = (pane, x, y, radius = 14) => {
  const [mx, my] = onMap(pane, x, y);
  let [best, far] = [null, (radius / scale(pane)) ** 2];
  for (const row of order) {
    const square = (pane.points[2 * row] - mx) ** 2 + (pane.points[2 * row + 1] - my) ** 2;
    if (square <= far) [best, far] = [row, square];
  }
  return best;
};
const aim = (pane) => nearest(pane, pane.stage.clientWidth / 2, pane.stage.clientHeight / 2, Infinity);
const aimed = (pane) => order.length && pane.stage.matches(":focus-visible");
const open = (row) => page.go(row < facts.items ? { item: String(row) } : { query: about.get(row).query });
const select = (pane, corners) => {
  const points = corners.map((place) => onMap(pane, ...place).map((part) => part.toFixed(4)).join(","));
  page.go({ lasso: pane.letter.toLowerCase() + ":" + points.join(";") });
};
const tell = async (row) => {
  if (!about.has(row)) about.set(row, await (await fetch("gcl/point/" + row + "?v=" + facts.version)).json());
  return about.get(row);
};
const show = async (row, x, y) => {
  const mine = ++wanted;
  if (row === null) return tip.classList.remove("shown");
  const { title, picture } = await tell(row);
  if (mine !== wanted) return;
  tip.replaceChildren();
  if (picture) make("img", "", tip, { src: source(row), alt: "" });
  make("span", "", tip, { textContent: title });
  const box = frames.getBoundingClientRect();
  const inside = root.getBoundingClientRect();
  Object.assign(tip.style, { left: Math.min(x + 12, box.right - 190) - inside.left + "px", top: y + 12 - inside.top + "px" });
  tip.classList.add("shown");
};
let naming = 0;
const name = (pane) => {
  clearTimeout(naming);
  naming = setTimeout(async () => page.announce((await tell(aim(pane))).title), 400);
};
const keys = (pane, event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  const zooms = { "+": 1.6, "=": 1.6, "-": 1 / 1.6 };
  if (event.key in steps) pan(pane, ...steps[event.key]);
  else if (event.key in zooms) zoom(zooms[event.key]);
  else if (event.key === "0") reset();
  else if (event.key === "Enter") return tell(aim(pane)).then(() => open(aim(pane)));
  else return;
  event.preventDefault();
  name(pane);
};
const listen = (pane) => {
  const { stage } = pane;
  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let from = null;
  let far = 0;
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    [from, far] = [at(event), 0];
    show(null);
    if (lassoing) path = Object.assign([from], { pane });
  });
  stage.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (!from) return show(nearest(pane, x, y), event.clientX, event.clientY);
    const [dx, dy] = [x - from[0], y - from[1]];
    [from, far] = [[x, y], far + Math.abs(dx) + Math.abs(dy)];
    if (!lassoing) return pan(pane, dx, dy);
    path.push(from);
    drawOver(pane);
  });
  stage.addEventListener("pointerup", async (event) => {
    const [held, place, still] = [path, at(event), far < 5];
    [from, path] = [null, []];
    if (lassoing && held.length > 2) {
      const step = Math.ceil(held.length / 60);
      select(pane, held.filter((_, place) => place % step === 0));
      setLasso(false);
    } else if (still) {
      const row = nearest(pane, ...place);
      if (row !== null) await tell(row).then(() => open(row));
    }
  });
  stage.addEventListener("pointercancel", () => ([from, path] = [null, []]));
  stage.addEventListener("pointerleave", () => show(null));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(1.0015 ** -event.deltaY, pane, ...at(event));
  }, { passive: false });
  stage.addEventListener("keydown", (event) => keys(pane, event));
  for (const kind of ["focus", "blur"]) stage.addEventListener(kind, draw);
};

// -- the view's facts ---------------------------------------------------------------------------------------------------

const inks = () => {
  const parts = (node) => getComputedStyle(node).backgroundColor.match(/[\d.]+/g).slice(0, 3).map((part) => part / 255);
  palette = new Float32Array(128).fill(0.55).map((part, at) => (at % 4 === 3 ? 0.85 : part));
  for (const swatch of document.querySelectorAll("[data-colour]")) palette.set(parts(swatch), 4 * swatch.dataset.colour);
  const named = getComputedStyle(root);
  levels = ["--hatch", "--l1", "--l2", "--l3", "--l4", "--b", "--focus"].map((name) => named.getPropertyValue(name));
};
const take = async (next, mine) => {
  const answer = await fetch(next.colours);
  if (!answer.ok) throw new Error(await answer.text());
  const fresh = new Uint8Array(await answer.arrayBuffer());
  const same = panels.map((pane) => pane.model).join() === next.models.join();
  const made = same ? panels : await Promise.all(next.models.map((model, at) => panel(model, "AB"[at], next.version)));
  if (mine !== turn) return;
  const bits = Uint8Array.from(atob(next.chosen), (letter) => letter.charCodeAt(0));
  [facts, colours] = [next, fresh];
  chosen = fresh.map((_, row) => (next.chosen ? (bits[row >> 3] >> (row & 7)) & 1 : 0));
  sort();
  inks();
  if (!same) {
    for (const { gl } of panels) gl?.getExtension("WEBGL_lose_context")?.loseContext();
    panels = made;
    frames.replaceChildren(...made.map((pane) => pane.box));
    frames.classList.toggle("two", made.length > 1);
  }
  const points = facts.items.toLocaleString("en") + " products and " + facts.queries.toLocaleString("en") + " queries. ";
  for (const pane of panels) {
    refill(pane);
    pane.stage.ariaLabel = "Map of " + pane.letter + ", " + pane.model + ": " + points + KEYS;
  }
  if (facts.item !== null && panels.every((pane) => outside(pane, facts.item)))
    [view.x, view.y] = panels[0].points.slice(2 * facts.item, 2 * facts.item + 2);
  drawNow();
  root.dataset.points = String(colours.length);
};
const outside = (pane, row) => {
  const [x, y] = onScreen(pane, row);
  return x < 0 || y < 0 || x > pane.stage.clientWidth || y > pane.stage.clientHeight;
};
new ResizeObserver(draw).observe(root);

let focus = null; // what had it in the map when the view was replaced
export default function mount(element, shell) {
  page = shell;
  show(null);
  delete root.dataset.points;
  element.append(root);
  take(JSON.parse(element.dataset.map), ++turn).catch((error) => (note.textContent = error.message));
  if (focus && ["BODY", "SECTION"].includes(document.activeElement.tagName)) focus.focus({ preventScroll: true });
  return () => (focus = root.contains(document.activeElement) ? document.activeElement : null);
}
