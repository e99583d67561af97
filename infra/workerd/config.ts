/**
 * What a bare workerd is told: the bundled Worker with the bindings of wrangler.toml, and nothing of wrangler's
 * development server around it. Pure: names and values in, Cap'n Proto text out (schema: workerd.capnp).
 */

/** One build of the Worker. */
export interface WorkerBuild {
  /** The entry first; `file` is relative to the configuration file. */
  modules: { name: string; file: string }[];
  compatibilityDate: string;
  compatibilityFlags: string[];
  vars: Record<string, string>;
  objects: { binding: string; className: string }[];
}

interface WorkerdConfig {
  worker: WorkerBuild;
  /** Another build that runs the Durable Objects, as while a deployment spreads; null: the same one does. */
  objectsWorker: WorkerBuild | null;
  /** Folder for what Durable Objects store: in memory workerd offers no SQL. */
  objectsDirectory: string;
  /** Binding → folder of static files. */
  assets: { binding: string; directory: string } | null;
  /** Binding → what the namespace holds; it forgets the rest when it ends. */
  namespaces: { binding: string; entries: Record<string, string> }[];
  /** R2 buckets; each is empty, and refuses what is put into it. */
  buckets: string[];
  /** Datasets that take events and drop them. */
  datasets: string[];
}

/** Of scripts that are no build of ours. */
const compatibilityDate = "2026-11-17";

/** A Worker of one file without bindings. */
export function workerAlone(file: string, objectsDirectory: string): WorkerdConfig {
  return {
    worker: {
      modules: [{ name: file, file }],
      compatibilityDate,
      compatibilityFlags: [],
      vars: {},
      objects: [],
    },
    objectsWorker: null,
    objectsDirectory,
    assets: null,
    namespaces: [],
    buckets: [],
    datasets: [],
  };
}

/** The text of a configuration that serves the Worker on a loopback port of the system's choice. */
export function workerdConfigText(config: WorkerdConfig): string {
  const { worker, objectsWorker, objectsDirectory, assets, namespaces, buckets, datasets } = config;
  const shared = [
    ...(assets ? [`(name = ${text(assets.binding)}, service = "assets")`] : []),
    ...namespaces.map((one, i) => `(name = ${text(one.binding)}, kvNamespace = "kv-${i}")`),
    ...buckets.map((name) => `(name = ${text(name)}, r2Bucket = "empty-bucket")`),
    ...datasets.map((name) => `(name = ${text(name)}, analyticsEngine = "sink")`),
  ];
  const services = [
    workerText("edge", worker, shared, objectsWorker ? "objects-worker" : null),
    ...(objectsWorker ? [workerText("objects-worker", objectsWorker, shared, null)] : []),
    // Backends are on this machine, which workerd's own "internet" leaves out.
    `(name = "network", network = (allow = ["public", "private"]))`,
    `(name = "objects", disk = (path = ${text(objectsDirectory)}, writable = true))`,
    ...(assets ? [`(name = "assets", disk = (path = ${text(assets.directory)}))`] : []),
    ...namespaces.map(({ entries }, i) => serviceText(`kv-${i}`, kvScript, [["entries", JSON.stringify(entries)]])),
    ...(buckets.length > 0 ? [serviceText("empty-bucket", emptyBucketScript)] : []),
    ...(datasets.length > 0 ? [serviceText("sink", sinkScript)] : []),
  ];
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = ${list(services)},
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "edge")]);
`;
}

/** A key-value namespace as workerd asks for one over HTTP: GET, PUT, DELETE of /key, and GET of / with a prefix lists names. */
const kvScript = `let held;
export default {
  async fetch(request, env) {
    held ??= new Map(Object.entries(env.entries));
    const { pathname, searchParams } = new URL(request.url);
    const key = decodeURIComponent(pathname.slice(1));
    if (key === "") {
      const names = [...held.keys()].filter((name) => name.startsWith(searchParams.get("prefix") ?? ""));
      return Response.json({ keys: names.map((name) => ({ name })), list_complete: true });
    }
    if (request.method === "PUT") held.set(key, await request.text());
    else if (request.method === "DELETE") held.delete(key);
    else if (held.has(key)) return new Response(held.get(key));
    else return new Response(null, { status: 404 });
    return new Response(null);
  },
};`;

/** R2 tells errors in a header. */
const emptyBucketScript = `export default {
  fetch: () => new Response(null, { status: 404, headers: {
    "cf-r2-error": JSON.stringify({ version: 1, v4code: 10007, message: "The specified key does not exist." }) } }),
};`;

const sinkScript = "export default { fetch: () => new Response(null) };";

function serviceText(name: string, script: string, json: [string, string][] = []): string {
  const bindings = json.map(([binding, value]) => `(name = ${text(binding)}, json = ${text(value)})`);
  const modules = list([`(name = "main", esModule = ${text(script)})`]);
  return `(name = "${name}", worker = (modules = ${modules}, compatibilityDate = ${text(compatibilityDate)}, bindings = ${list(bindings)}))`;
}

/** `objectsService` runs the Worker's objects; null: it does so itself. */
function workerText(name: string, build: WorkerBuild, shared: string[], objectsService: string | null): string {
  const bindings = [
    ...Object.entries(build.vars).map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`),
    ...build.objects.map(({ binding, className }) => {
      const service = objectsService ? `, serviceName = ${text(objectsService)}` : "";
      return `(name = ${text(binding)}, durableObjectNamespace = (className = ${text(className)}${service}))`;
    }),
    ...shared,
  ];
  const classes = [...new Set(build.objects.map(({ className }) => className))].map(
    (name) => `(className = ${text(name)}, uniqueKey = ${text(name)}, enableSql = true)`,
  );
  return `(name = ${text(name)}, worker = (
      modules = ${list(build.modules.map(moduleText))},
      compatibilityDate = ${text(build.compatibilityDate)},
      compatibilityFlags = ${list(build.compatibilityFlags.map(text))},
      bindings = ${list(bindings)},
      durableObjectNamespaces = ${list(objectsService ? [] : classes)},
      durableObjectStorage = (localDisk = "objects"),
      globalOutbound = "network"))`;
}

function moduleText({ name, file }: WorkerBuild["modules"][number]): string {
  const kind = name.endsWith(".wasm")
    ? "wasm"
    : name.endsWith("js")
      ? "esModule"
      : name.endsWith("txt")
        ? "text"
        : "data";
  return `(name = ${text(name)}, ${kind} = embed ${text(file)})`;
}

function list(items: readonly string[]): string {
  return `[${items.join(",\n    ")}]`;
}

/** Cap'n Proto's strings are C's. */
function text(value: string): string {
  return JSON.stringify(value);
}
