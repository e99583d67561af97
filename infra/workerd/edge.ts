/** Starts a Worker in workerd, with the bindings of its wrangler configuration. */
import { createHash } from "node:crypto";
import { rmSync } from "node:fs";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { readWranglerConfig } from "../wrangler.ts";
import { bundleWorker } from "./bundle.ts";
import { type OutsideSocket, recordFile, stateFolders, type WorkerSettings, workerdConfigText } from "./config.ts";
import { startWorkerd, type WorkerdOptions, type WorkerdProcess } from "./process.ts";

/** Settings that override the wrangler configuration. */
export interface EdgeSettings {
  port?: number;
  outside?: OutsideSocket | null;
  vars?: Record<string, string>;
  /** API key → tenant. The keys have no limits. */
  keys?: Record<string, string>;
  /** State folder; a temporary one by default. Only one process at a time may use it. */
  state?: string;
  /** Records to write into every KV namespace. */
  entries?: Record<string, string>;
  assets?: string;
}

export type BareEdge = ReturnType<typeof bareEdge>;

/** Bundles a Worker. `environment`: absent for the top level. `bundle`: writes the bundles; absent: those of the configuration's Worker. */
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

export function temporaryFolder(): Promise<string> {
  return mkdtemp(path.join(tmpdir(), "chameleon-edge-"));
}

/** `directory` holds the files that bundle.ts wrote. From now on this edge owns the folder, and removes it. */
export function bareEdge(directory: string, worker: WorkerSettings, assetsFolder: string) {
  return {
    /** Starts workerd. Throws an Error with workerd's message if workerd does not start. */
    async start(
      { port = 0, outside = null, vars, keys, state: given, entries = {}, assets = assetsFolder }: EdgeSettings = {},
      options: WorkerdOptions = {},
    ): Promise<WorkerdProcess> {
      const state = given ?? (await mkdtemp(path.join(directory, "state-")));
      const namespaces = worker.kv_namespaces.map(({ binding }) => stateFolders.namespace(state, binding));
      const buckets = worker.r2_buckets.map(({ binding }) => stateFolders.bucket(state, binding));
      // workerd does not start if one of its folders is missing.
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
      // Only this user may read the file, because the configuration holds secrets.
      await writeFile(file, text, { mode: 0o600 });
      return startWorkerd(file, options);
    },
    /** Removes the edge's folder, with temporary state folders in it. The processes that used these folders must have ended. */
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

function tenantKeys(keys: Record<string, string>): string {
  const hashed = Object.entries(keys).map(([key, tenant]) => ({
    hash: createHash("sha256").update(key).digest("hex"),
    tenant,
  }));
  return JSON.stringify(hashed);
}
