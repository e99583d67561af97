/** A Worker in a bare workerd, with its bundle and the bindings of its wrangler configuration. */
import { createHash } from "node:crypto";
import { rmSync } from "node:fs";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { readWranglerConfig } from "../wrangler.ts";
import { bundleWorker } from "./bundle.ts";
import { type OutsideSocket, recordFile, stateFolders, type WorkerSettings, workerdConfigText } from "./config.ts";
import { startWorkerd, type WorkerdOptions, type WorkerdProcess } from "./process.ts";

/** These override the wrangler configuration. */
export interface EdgeSettings {
  /** 0, unless given: the system chooses. */
  port?: number;
  outside?: OutsideSocket | null;
  vars?: Record<string, string>;
  /** API keys without limits, by key: their tenants. */
  keys?: Record<string, string>;
  /** Folder of all that is stored, a temporary one unless given. One process at a time has its Durable Objects open. */
  state?: string;
  /** Records of every key-value namespace, besides those in `state`. */
  entries?: Record<string, string>;
  /** Folder of the static assets. */
  assets?: string;
}

export interface BareEdge {
  /** Throws an Error with workerd's own words where it does not start. */
  start(settings?: EdgeSettings, options?: WorkerdOptions): Promise<WorkerdProcess>;
  /** Removes every file but those in a `state` that was given. Processes without one must have ended. */
  remove(): void;
}

/**
 * `environment` is one of the configuration's, its top level unless given. `bundle` writes the files of bundle.ts into a folder;
 * unless given, those of the configuration's Worker.
 */
export async function prepareBareEdge(
  configFile: string,
  { environment, bundle }: { environment?: string; bundle?: (directory: string) => Promise<void> } = {},
): Promise<BareEdge> {
  const wrangler = await readWranglerConfig(configFile, environment);
  const directory = await temporaryFolder();
  const fromConfig = (file: string) => path.resolve(path.dirname(configFile), file);
  await (bundle ? bundle(directory) : bundleWorker(fromConfig(wrangler.main), directory));
  return bareEdge(directory, wrangler, fromConfig(wrangler.assets?.directory ?? "."));
}

/** A folder for the files of an edge. */
export function temporaryFolder(): Promise<string> {
  return mkdtemp(path.join(tmpdir(), "chameleon-edge-"));
}

/** An edge of the files of bundle.ts in `directory`, which is its own from now on. `assetsFolder` is served where a start names none. */
export function bareEdge(directory: string, worker: WorkerSettings, assetsFolder: string): BareEdge {
  return {
    async start(
      { port = 0, outside = null, vars, keys, state: given, entries = {}, assets = assetsFolder } = {},
      options = {},
    ) {
      const state = given ?? (await mkdtemp(path.join(directory, "state-")));
      const namespaces = worker.kv_namespaces.map(({ binding }) => stateFolders.namespace(state, binding));
      const buckets = worker.r2_buckets.map(({ binding }) => stateFolders.bucket(state, binding));
      // workerd serves no folder that is missing when it starts.
      for (const folder of [...namespaces, ...buckets, stateFolders.objects(state)]) {
        await mkdir(folder, { recursive: true });
      }
      for (const folder of namespaces) {
        for (const [name, value] of Object.entries(entries)) await writeFile(recordFile(folder, name), value);
      }
      const text = workerdConfigText(worker, {
        port,
        outside,
        vars: { ...worker.vars, ...(keys && { TENANT_KEYS: tenantKeys(keys) }), ...vars },
        state,
        assets,
      });
      const file = path.join(directory, "config.capnp");
      // It holds secrets.
      await writeFile(file, text, { mode: 0o600 });
      return startWorkerd(file, options);
    },
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** The variable TENANT_KEYS, which holds hashes of keys. */
function tenantKeys(keys: Record<string, string>): string {
  const hashed = Object.entries(keys).map(([key, tenant]) => ({
    hash: createHash("sha256").update(key).digest("hex"),
    tenant,
  }));
  return JSON.stringify(hashed);
}
