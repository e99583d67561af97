/**
 * What a bare workerd is told: the bundled Worker with the bindings of wrangler.toml, and nothing of wrangler's
 * development server around it. Pure: names and values in, Cap'n Proto text out (schema: workerd.capnp).
 */

/** One build of the Worker. */
export interface WorkerBuild {
  /** The bundle, one ES module; relative to the configuration file. */
  file: string;
  compatibilityDate: string;
  compatibilityFlags: string[];
  vars: Record<string, string>;
  objects: { binding: string; className: string }[];
}

/** Binding → folder. */
interface BoundFolder {
  binding: string;
  directory: string;
}

interface WorkerdConfig {
  worker: WorkerBuild;
  /** On loopback; 0 lets the system choose. */
  port: number;
  /** Folder for what Durable Objects store: in memory workerd offers no SQL. */
  objectsDirectory: string;
  assets: BoundFolder | null;
  /** The module that makes KV namespaces and R2 buckets of folders (edge/local-storage.ts), bundled; relative to the configuration file. */
  storageFile: string;
  namespaces: BoundFolder[];
  buckets: BoundFolder[];
}

/** The text of a configuration that serves the Worker on a loopback port. */
export function workerdConfigText(config: WorkerdConfig): string {
  const { worker, port, objectsDirectory, assets, storageFile, namespaces, buckets } = config;
  const folders = [...namespaces, ...buckets];
  const bindings = [
    ...(assets ? [`(name = ${text(assets.binding)}, service = ${text(assets.binding)})`] : []),
    ...namespaces.map(({ binding }) => wrappedText(binding, "namespace")),
    ...buckets.map(({ binding }) => wrappedText(binding, "bucket")),
  ];
  const services = [
    workerText(worker, bindings),
    // Backends are on this machine, which workerd's own "internet" leaves out.
    `(name = "network", network = (allow = ["public", "private"]))`,
    `(name = "objects", disk = (path = ${text(objectsDirectory)}, writable = true))`,
    ...[...(assets ? [assets] : []), ...folders].map(
      ({ binding, directory }) => `(name = ${text(binding)}, disk = (path = ${text(directory)}))`,
    ),
  ];
  const storage = `(name = "chameleon:local-storage", internal = true, esModule = embed ${text(storageFile)})`;
  // The platform sets the header, whatever a client sends.
  const http = `(injectRequestHeaders = [(name = "cf-connecting-ip", value = "127.0.0.1")])`;
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = ${list(services)},
  extensions = [(modules = ${list(folders.length > 0 ? [storage] : [])})],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = ${http}, service = "edge")]);
`;
}

function wrappedText(binding: string, entrypoint: "namespace" | "bucket"): string {
  const inner = `[(name = "folder", service = ${text(binding)})]`;
  return `(name = ${text(binding)}, wrapped = (
      moduleName = "chameleon:local-storage", entrypoint = ${text(entrypoint)}, innerBindings = ${inner}))`;
}

function workerText(build: WorkerBuild, folders: readonly string[]): string {
  const objects = build.objects.map(
    ({ binding, className }) => `(name = ${text(binding)}, durableObjectNamespace = ${text(className)})`,
  );
  const vars = Object.entries(build.vars).map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`);
  const classes = [...new Set(build.objects.map(({ className }) => className))].map(
    (name) => `(className = ${text(name)}, uniqueKey = ${text(name)}, enableSql = true)`,
  );
  return `(name = "edge", worker = (
      modules = [(name = "worker.js", esModule = embed ${text(build.file)})],
      compatibilityDate = ${text(build.compatibilityDate)},
      compatibilityFlags = ${list(build.compatibilityFlags.map(text))},
      bindings = ${list([...vars, ...objects, ...folders])},
      durableObjectNamespaces = ${list(classes)},
      durableObjectStorage = (localDisk = "objects"),
      globalOutbound = "network"))`;
}

function list(items: readonly string[]): string {
  return `[${items.join(",\n    ")}]`;
}

/** Cap'n Proto's strings are C's. */
function text(value: string): string {
  return JSON.stringify(value);
}
