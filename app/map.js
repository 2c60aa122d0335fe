// The maps: a WebGL2 canvas per model (2D without WebGL2), with edges, pictures and the lasso drawn on top.
// The view's data-map says what to show; clicks and lassos go to the server, which answers with a new data-map.
const SHADER = [
  "#version 300 es",
  "in vec2 place; in uint colour; in float chosen; uniform vec3 view; uniform vec2 half_size; uniform vec4 palette[32];",
  "uniform float size, items, choosing; out vec4 ink; flat out float query;",
  "void main() { gl_Position = vec4((place - view.xy) * view.z / half_size, 0., 1.);",
  "query = float(gl_VertexID) >= items ? 1. : 0.; gl_PointSize = size * (1. + .5 * query);",
  "ink = palette[min(colour, 31u)]; if (colour == 255u) gl_Position.z = 2.;",
  "if (choosing > 0. && chosen == 0.) ink.a *= .12; ink.rgb *= ink.a; }",
];
const INK = [
  "#version 300 es",
  "precision mediump float; in vec4 ink; flat in float query; out vec4 colour;",
  "void main() { vec2 at = abs(gl_PointCoord - .5); float far = query > 0. ? at.x + at.y : length(at);",
  "if (far > .5) discard; colour = far > .38 && query > 0. ? vec4(1., 1., 1., ink.a) : ink; }",
];
const PICTURES = 60;
const SIDE = 46;
const root = element.querySelector(".map");
const make = (tag, name, parent, text) => {
  const node = document.createElement(tag);
  node.className = name;
  if (text) node.textContent = text;
  parent.append(node);
  return node;
};
const bar = make("div", "map-bar", root);
const frames = make("div", "frames", root);
const tip = make("div", "tip", root);
const about = new Map();
const images = new Map();
const panels = [];
const view = { x: 0, y: 0, zoom: 1 };
let facts = null;
let colours = new Uint8Array();
let chosen = new Uint8Array();
let palette = new Float32Array(128);
let lassoing = false;
let path = [];
let wanted = 0;

const button = (text, label, act) => {
  const node = make("button", "", bar, text);
  node.type = "button";
  node.setAttribute("aria-label", label);
  node.addEventListener("click", act);
  return node;
};
const lasso = button("Lasso", "Select points by drawing around them", () => setLasso(!lassoing));
const setLasso = (on) => {
  lassoing = on;
  lasso.setAttribute("aria-pressed", String(on));
  frames.classList.toggle("lassoing", on);
};
button("+", "Zoom in", () => zoom(1.6));
button("−", "Zoom out", () => zoom(1 / 1.6));
button("Reset view", "Show all points", () => {
  Object.assign(view, { x: 0, y: 0, zoom: 1 });
  draw();
});
setLasso(false);

// -- a panel ------------------------------------------------------------------------------------------------------

const panel = async (model, letter) => {
  const box = make("figure", "frame", frames);
  make("figcaption", "", box, letter + " " + model);
  const [below, above] = [make("canvas", "points", box), make("canvas", "over", box)];
  const pane = { model, letter, box, below, above, over: above.getContext("2d"), points: null };
  const wish = below.getContext("webgl2", { antialias: false });
  Object.assign(pane, wish ? webgl(wish) : { plain: below.getContext("2d") });
  box.dataset.renderer = wish ? "webgl2" : "2d";
  listen(pane);
  const answer = await fetch("gcl/points/" + encodeURIComponent(model) + "?v=" + facts.version);
  pane.points = new Float32Array(await answer.arrayBuffer());
  if (wish) fill(pane, 0, pane.points, 2, wish.FLOAT);
  return pane;
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
  return { gl, at: (name) => gl.getUniformLocation(program, name), buffers: [0, 1, 2].map(() => gl.createBuffer()) };
};
const fill = ({ gl, buffers }, at, data, size, kind) => {
  gl.bindBuffer(gl.ARRAY_BUFFER, buffers[at]);
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(at);
  if (at === 1) gl.vertexAttribIPointer(at, size, kind, 0, 0);
  else gl.vertexAttribPointer(at, size, kind, false, 0, 0);
};

// -- drawing ------------------------------------------------------------------------------------------------------

const scale = ({ box }) => (view.zoom * Math.min(box.clientWidth, box.clientHeight)) / 2.15;
const onScreen = (pane, row) => [
  pane.box.clientWidth / 2 + (pane.points[2 * row] - view.x) * scale(pane),
  pane.box.clientHeight / 2 - (pane.points[2 * row + 1] - view.y) * scale(pane),
];
const onMap = (pane, x, y) => [
  view.x + (x - pane.box.clientWidth / 2) / scale(pane),
  view.y - (y - pane.box.clientHeight / 2) / scale(pane),
];
const dot = () => Math.max(2, Math.min(7, 200 / Math.sqrt(facts.items))) * Math.min(2, view.zoom ** 0.3);
let due = 0;
const draw = () => (due ||= requestAnimationFrame(drawNow));
const drawNow = () => {
  due = 0;
  if (!facts || !element.offsetParent) return;
  const start = performance.now();
  for (const pane of panels) {
    if (!pane.points) continue;
    for (const canvas of [pane.below, pane.above]) {
      const [width, height] = [pane.box.clientWidth, pane.box.clientHeight].map((side) => Math.round(side * devicePixelRatio));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    if (pane.gl) drawPoints(pane);
    else drawPlain(pane);
    drawOver(pane);
  }
  root.dataset.milliseconds = String(Math.round(performance.now() - start));
};
const drawPoints = (pane) => {
  const { gl, at } = pane;
  gl.viewport(0, 0, pane.below.width, pane.below.height);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.uniform3f(at("view"), view.x, view.y, scale(pane));
  gl.uniform2f(at("half_size"), pane.box.clientWidth / 2, pane.box.clientHeight / 2);
  gl.uniform4fv(at("palette"), palette);
  gl.uniform1f(at("size"), dot() * devicePixelRatio);
  gl.uniform1f(at("items"), facts.items);
  gl.uniform1f(at("choosing"), facts.chosen ? 1 : 0);
  gl.drawArrays(gl.POINTS, 0, pane.points.length / 2);
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for the GPU, so that the measured time is right
};
const css = (colour, alpha) => {
  const [r, g, b] = palette.slice(4 * colour, 4 * colour + 3).map((part) => 255 * part);
  return "rgb(" + [r, g, b].join(" ") + " / " + alpha + ")";
};
const drawPlain = (pane) => {
  const [context, side, s] = [pane.plain, dot(), scale(pane)];
  context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  context.clearRect(0, 0, pane.box.clientWidth, pane.box.clientHeight);
  const [middle, centre] = [pane.box.clientWidth / 2, pane.box.clientHeight / 2];
  let last = -1;
  for (let row = 0; row < colours.length; row++) {
    if (colours[row] === 255) continue;
    const kind = colours[row] + (facts.chosen && !chosen[row] ? 256 : 0);
    if (kind !== last) context.fillStyle = css(colours[row], kind > 255 ? 0.12 : 0.85);
    last = kind;
    const size = row < facts.items ? side : 1.5 * side;
    context.fillRect(
      middle + (pane.points[2 * row] - view.x) * s - size / 2,
      centre - (pane.points[2 * row + 1] - view.y) * s - size / 2,
      size,
      size,
    );
  }
};
const drawOver = (pane) => {
  const over = pane.over;
  over.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  over.clearRect(0, 0, pane.box.clientWidth, pane.box.clientHeight);
  if (facts.query !== null) {
    const [x, y] = onScreen(pane, facts.items + facts.query);
    for (const [row, level] of [...facts.edges].reverse()) line(over, [[x, y], onScreen(pane, row)], levels[level], 1 + level / 2);
    ring(over, [x, y], levels[5], 9);
  }
  const shown = inView(pane);
  if (shown) for (const row of shown) paint(pane, row);
  if (facts.item !== null) for (const row of [...facts.near, facts.item]) ring(over, onScreen(pane, row), levels[5], row === facts.item ? 10 : 6);
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
  const s = scale(pane);
  return points.split(";").map((corner) => {
    const [x, y] = corner.split(",").map(Number);
    return [pane.box.clientWidth / 2 + (x - view.x) * s, pane.box.clientHeight / 2 - (y - view.y) * s];
  });
};
const inView = (pane) => {
  if (view.zoom < 1.5) return null;
  const [left, top] = onMap(pane, 0, 0);
  const [right, bottom] = onMap(pane, pane.box.clientWidth, pane.box.clientHeight);
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
    image = new Image();
    Object.assign(image, { onload: () => draw(), src: source(row) });
    images.set(row, image);
  }
  if (!image.naturalWidth) return;
  const [x, y] = onScreen(pane, row);
  pane.over.drawImage(image, x - SIDE / 2, y - SIDE / 2, SIDE, SIDE);
  Object.assign(pane.over, { strokeStyle: css(colours[row], 1), lineWidth: 3 });
  pane.over.strokeRect(x - SIDE / 2, y - SIDE / 2, SIDE, SIDE);
};

// -- pointing -----------------------------------------------------------------------------------------------------

const zoom = (factor, pane, x, y) => {
  const before = pane ? onMap(pane, x, y) : null;
  view.zoom = Math.max(0.5, Math.min(400, view.zoom * factor));
  if (before) {
    const after = onMap(pane, x, y);
    view.x += before[0] - after[0];
    view.y += before[1] - after[1];
  }
  draw();
};
const nearest = (pane, x, y) => {
  const [mx, my] = onMap(pane, x, y);
  let [best, far] = [null, (14 / scale(pane)) ** 2];
  for (let row = 0; row < colours.length; row++) {
    const square = (pane.points[2 * row] - mx) ** 2 + (pane.points[2 * row + 1] - my) ** 2;
    if (square <= far && colours[row] !== 255) [best, far] = [row, square];
  }
  return best;
};
const show = async (row, x, y) => {
  const mine = ++wanted;
  if (row === null) return tip.classList.remove("shown");
  if (!about.has(row)) about.set(row, await (await fetch("gcl/point/" + row + "?v=" + facts.version)).json());
  if (mine !== wanted) return;
  tip.replaceChildren();
  if (about.get(row).picture) make("img", "", tip).src = source(row);
  make("span", "", tip, about.get(row).title);
  Object.assign(tip.style, { left: Math.min(x + 12, root.clientWidth - 190) + "px", top: y + 12 + "px" });
  tip.classList.add("shown");
};
const listen = (pane) => {
  const at = (event) => {
    const box = pane.above.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let from = null;
  let moved = 0;
  pane.above.addEventListener("pointerdown", (event) => {
    pane.above.setPointerCapture(event.pointerId);
    [from, moved] = [at(event), 0];
    if (lassoing) path = Object.assign([from], { pane });
  });
  pane.above.addEventListener("pointermove", (event) => {
    if (!pane.points) return;
    const [x, y] = at(event);
    if (!from) return show(nearest(pane, x, y), event.clientX - root.getBoundingClientRect().left, event.clientY - root.getBoundingClientRect().top);
    moved += Math.abs(x - from[0]) + Math.abs(y - from[1]);
    if (lassoing) path.push([x, y]);
    else {
      view.x -= (x - from[0]) / scale(pane);
      view.y += (y - from[1]) / scale(pane);
    }
    from = [x, y];
    if (lassoing) drawOver(pane);
    else draw();
  });
  pane.above.addEventListener("pointerup", (event) => {
    if (lassoing && path.length > 2) {
      const step = Math.ceil(path.length / 60);
      const points = path.filter((_, place) => place % step === 0).map(([x, y]) => onMap(pane, x, y).map((part) => part.toFixed(4)).join(","));
      if (points.length > 2) trigger("click", { lasso: pane.letter.toLowerCase() + ":" + points.join(";") });
      setLasso(false);
    } else if (moved < 5) {
      const row = nearest(pane, ...at(event));
      if (row !== null) trigger("click", row < facts.items ? { item: String(row) } : { ask: String(row - facts.items) });
    }
    [from, path] = [null, []];
  });
  pane.above.addEventListener("pointerleave", () => show(null));
  pane.above.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(1.0015 ** -event.deltaY, pane, ...at(event));
  }, { passive: false });
};

// -- the view's facts -------------------------------------------------------------------------------------------------

let levels = [];
const inks = (place) => {
  const parts = (node, what) => getComputedStyle(node)[what].match(/[\d.]+/g).slice(0, 3).map((part) => part / 255);
  palette = new Float32Array(128).fill(0.55).map((part, at) => (at % 4 === 3 ? 0.85 : part));
  for (const swatch of place.querySelectorAll("[data-colour]")) palette.set(parts(swatch, "backgroundColor"), 4 * swatch.dataset.colour);
  const named = getComputedStyle(root);
  levels = ["--hatch", "--l1", "--l2", "--l3", "--l4", "--down"].map((name) => named.getPropertyValue(name));
};
const take = async (place) => {
  const holder = place.querySelector("[data-map]");
  if (!holder) return;
  facts = JSON.parse(holder.dataset.map);
  inks(place);
  const bits = Uint8Array.from(atob(facts.chosen), (letter) => letter.charCodeAt(0));
  const answer = await fetch(facts.colours);
  colours = new Uint8Array(await answer.arrayBuffer());
  chosen = new Uint8Array(colours.length).map((_, row) => (facts.chosen ? (bits[row >> 3] >> (row & 7)) & 1 : 0));
  if (panels.map((pane) => pane.model).join() !== facts.models.join()) {
    panels.splice(0);
    frames.replaceChildren();
    frames.classList.toggle("two", facts.models.length > 1);
    panels.push(...(await Promise.all(facts.models.map((model, at) => panel(model, "AB"[at])))));
  }
  for (const pane of panels.filter((pane) => pane.gl)) {
    fill(pane, 1, colours, 1, pane.gl.UNSIGNED_BYTE);
    fill(pane, 2, chosen, 1, pane.gl.UNSIGNED_BYTE);
  }
  draw();
  root.dataset.points = String(colours.length);
};
let queue = Promise.resolve();
const heard = (place) => (queue = queue.then(() => take(place)));
document.addEventListener("gcl-drawn", (event) => heard(event.detail));
new ResizeObserver(draw).observe(root);
const early = document.querySelector("[data-map]");
if (early) heard(early.closest(".view"));
