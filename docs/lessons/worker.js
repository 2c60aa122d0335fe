// Python in a worker: Pyodide and NumPy from runtime/, the lesson's modules from beside this file. No outside request.
import { loadPyodide } from "./runtime/pyodide.mjs";

const bytes = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is missing; build the site with make docs`);
  return answer.arrayBuffer();
};
const files = ["draw.py", "check.py", "score.py", "metrics.py", "better.py", "answers.json"];
const start = async () => {
  const [python, numpy, library, ...own] = await Promise.all([
    loadPyodide({ indexURL: new URL("runtime/", import.meta.url).href }),
    bytes("runtime/numpy.zip"), bytes("runtime/gcl_toolkit.zip"), ...files.map(bytes),
  ]);
  python.unpackArchive(numpy, "zip", { extractDir: "/home/pyodide" });
  python.unpackArchive(library, "zip", { extractDir: "/home/pyodide" });
  own.forEach((file, place) => python.FS.writeFile(`/home/pyodide/${files[place]}`, new Uint8Array(file)));
  await python.runPythonAsync(`
import json, score, metrics, better, check
ANSWERS = json.load(open("answers.json"))

def called(name, args):
    (module, function), args = name.split("."), args.to_py()
    if module == "check":
        args = [*args, ANSWERS[args[0]]]
    elif name == "metrics.trap":
        args = args[1:]
    return json.dumps(getattr(globals()[module], function)(*args))
`);
  return python.globals.get("called");
};
const ready = start();
ready.then(() => postMessage({ ready: true }), (error) => postMessage({ failed: error.message }));
onmessage = async ({ data }) => {
  try {
    const called = await ready;
    postMessage({ result: JSON.parse(called(data.name, data.args)) });
  } catch (error) { // an error that isn't Python's has broken Pyodide
    const words = error.message.trim().split("\n").pop();
    postMessage(error.type ? { error: words } : { broken: words });
  }
};
