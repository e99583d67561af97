/** workerd's configuration for the bundled Worker, as Cap'n Proto text (schema: workerd.capnp). Pure. */
import path from "node:path";
import type { WranglerConfig } from "../wrangler.ts";
import { storageFile, workerFile } from "./bundle.ts";

export const stateFolders = {
  namespace: (state: string, binding: string) => path.join(state, "kv", binding),
  bucket: (state: string, binding: string) => path.join(state, "r2", binding),
  objects: (state: string) => path.join(state, "objects"),
};

/** edge/local-storage.ts names the file in the same way. */
export function recordFile(folder: string, name: string): string {
  return path.join(folder, encodeURIComponent(name));
}

export type WorkerSettings = Pick<
  WranglerConfig,
  "compatibility_date" | "compatibility_flags" | "vars" | "durable_objects" | "kv_namespaces" | "r2_buckets"
> & { assets?: { binding: string } };

/** The settings hold no paths, because a package is built on one machine and runs on another. */
export function workerSettings(wrangler: WranglerConfig): WorkerSettings {
  const { compatibility_date, compatibility_flags, vars, durable_objects, kv_namespaces, r2_buckets, assets } =
    wrangler;
  return {
    ...{ compatibility_date, compatibility_flags, vars, durable_objects, kv_namespaces, r2_buckets },
    ...(assets && { assets: { binding: assets.binding } }),
  };
}

export interface OutsideSocket {
  host: string;
  port: number;
  tls: { certificate: string; privateKey: string } | null;
}

export interface ServingSettings {
  /** Port on loopback; 0 lets the system choose. */
  port: number;
  outside: OutsideSocket | null;
  vars: Record<string, string>;
  state: string;
  assets: string;
}

/** The configuration must be stored in the folder that holds the files of bundle.ts. */
export function workerdConfigText(
  { assets: served, kv_namespaces: namespaces, r2_buckets: buckets, ...wrangler }: WorkerSettings,
  { port, outside, vars, state, assets }: ServingSettings,
): string {
  const objects = wrangler.durable_objects.bindings;
  const classes = [...new Set(objects.map(({ class_name }) => class_name))].map(
    (name) => `(className = ${text(name)}, uniqueKey = ${text(name)}, enableSql = true)`,
  );
  const bindings = [
    ...Object.entries(vars).map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`),
    ...objects.map((one) => `(name = ${text(one.name)}, durableObjectNamespace = ${text(one.class_name)})`),
    ...namespaces.map(({ binding }) => wrappedText(binding, "namespace")),
    ...buckets.map(({ binding }) => wrappedText(binding, "bucket")),
    ...(served ? [`(name = ${text(served.binding)}, service = ${text(served.binding)})`] : []),
  ];
  const services = [
    `(name = "edge", worker = (
      modules = [(name = "worker.js", esModule = embed ${text(workerFile)})],
      compatibilityDate = ${text(wrangler.compatibility_date)},
      compatibilityFlags = ${list(wrangler.compatibility_flags.map(text))},
      bindings = ${list(bindings)},
      durableObjectNamespaces = ${list(classes)},
      durableObjectStorage = (localDisk = "objects"),
      globalOutbound = "network"))`,
    // workerd's default network excludes private addresses, where backends may be.
    `(name = "network", network = (allow = ["public", "private"]))`,
    folderText("objects", stateFolders.objects(state), true),
    ...namespaces.map(({ binding }) => folderText(binding, stateFolders.namespace(state, binding), true)),
    ...buckets.map(({ binding }) => folderText(binding, stateFolders.bucket(state, binding), true)),
    ...(served ? [folderText(served.binding, assets)] : []),
  ];
  // Like Cloudflare, workerd replaces a client's own header. edge/local-worker.ts then sets other machines' addresses.
  const http = `(injectRequestHeaders = [(name = "cf-connecting-ip", value = "127.0.0.1")])`;
  const sockets = [
    ...(outside ? [`(name = "outside", ${outsideText(outside, http)}, service = "edge")`] : []),
    // workerd opens sockets in this order. process.ts waits for the last socket.
    `(name = "http", address = "127.0.0.1:${port}", http = ${http}, service = "edge")`,
  ];
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = ${list(services)},
  extensions = [(modules = [(name = "chameleon:local-storage", internal = true, esModule = embed ${text(storageFile)})])],
  sockets = ${list(sockets)});
`;
}

function outsideText({ host, port, tls }: OutsideSocket, http: string): string {
  const address = `address = ${text(host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`)}`;
  if (!tls) return `${address}, http = ${http}`;
  const keypair = `(privateKey = ${text(tls.privateKey)}, certificateChain = ${text(tls.certificate)})`;
  return `${address}, https = (options = ${http}, tlsOptions = (keypair = ${keypair}))`;
}

function wrappedText(binding: string, entrypoint: "namespace" | "bucket"): string {
  const inner = `[(name = "folder", service = ${text(binding)})]`;
  return `(name = ${text(binding)}, wrapped = (
      moduleName = "chameleon:local-storage", entrypoint = ${text(entrypoint)}, innerBindings = ${inner}))`;
}

function folderText(name: string, folder: string, isWritable = false): string {
  return `(name = ${text(name)}, disk = (path = ${text(folder)}, writable = ${isWritable}))`;
}

function list(items: readonly string[]): string {
  return `[${items.join(",\n    ")}]`;
}

/** JSON's escapes are also Cap'n Proto's. */
function text(value: string): string {
  return JSON.stringify(value);
}
