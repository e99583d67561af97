/** A Worker as it is deployed, ready for a bare workerd: bundle and bindings of its wrangler configuration. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { unstable_readConfig as readWranglerConfig } from "wrangler";
import { type Bundle, bundleWorker } from "./bundle.ts";
import { type WorkerBuild, workerdConfigText } from "./config.ts";

/** What we read of wrangler.toml; wrangler's own type of it is not part of its package. */
interface WranglerConfig {
  main: string;
  compatibility_date: string;
  compatibility_flags: string[];
  vars: Record<string, string>;
  assets?: { binding: string; directory: string };
  durable_objects: { bindings: { name: string; class_name: string }[] };
  kv_namespaces: { binding: string }[];
  r2_buckets: { binding: string }[];
  analytics_engine_datasets: { binding: string }[];
}

interface Settings {
  vars?: Record<string, string>;
  /** What every key-value namespace holds at first. */
  entries?: Record<string, string>;
  /** Folder of the static assets. */
  assets?: string;
  /** Another build, whose classes run the Durable Objects. */
  objectsOf?: BareEdge;
}

/** A bundle with what a bare workerd must be told to serve it. */
export interface BareEdge {
  bundle: Bundle;
  /** With files relative to `directory`, and `vars` over the configuration's. */
  build(directory: string, vars: Record<string, string>): WorkerBuild;
  /** Writes what workerd is told, and returns its file. `settings` go over what wrangler's configuration says. */
  configure(settings?: Settings): Promise<string>;
  /** Removes every file. */
  remove(): Promise<void>;
}

/** `environment` is one of the configuration's; its top level unless given. */
export async function prepareBareEdge(configFile: string, environment?: string): Promise<BareEdge> {
  const directory = await mkdtemp(path.join(tmpdir(), "chameleon-edge-"));
  const wrangler: WranglerConfig = readWranglerConfig({ config: configFile, env: environment });
  const bundle = await bundleWorker(configFile, path.parse(wrangler.main).name, directory, environment);
  const build = (from: string, vars: Record<string, string>): WorkerBuild => ({
    modules: bundle.modules.map((name) => ({ name, file: path.relative(from, path.join(directory, name)) })),
    compatibilityDate: wrangler.compatibility_date,
    compatibilityFlags: wrangler.compatibility_flags,
    vars: { ...wrangler.vars, ...vars },
    objects: wrangler.durable_objects.bindings.map(({ name, class_name }) => ({
      binding: name,
      className: class_name,
    })),
  });
  return {
    bundle,
    build,
    async configure({ vars = {}, entries = {}, assets, objectsOf } = {}) {
      // Each process has its own: a store is open in one only.
      const objectsDirectory = await mkdtemp(path.join(directory, "objects-"));
      const text = workerdConfigText({
        worker: build(directory, vars),
        objectsWorker: objectsOf ? objectsOf.build(directory, vars) : null,
        objectsDirectory,
        assets: wrangler.assets
          ? {
              binding: wrangler.assets.binding,
              directory: assets ?? path.resolve(path.dirname(configFile), wrangler.assets.directory),
            }
          : null,
        namespaces: wrangler.kv_namespaces.map(({ binding }) => ({ binding, entries })),
        buckets: wrangler.r2_buckets.map(({ binding }) => binding),
        datasets: wrangler.analytics_engine_datasets.map(({ binding }) => binding),
      });
      const file = path.join(directory, "config.capnp");
      await writeFile(file, text);
      return file;
    },
    remove: () => rm(directory, { recursive: true, force: true }),
  };
}
