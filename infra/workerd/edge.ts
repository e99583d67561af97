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

export interface EdgeSettings {
  port?: number;
  outside?: OutsideSocket | null;
  vars?: Record<string, string>;
  /** API key → tenant. These keys have no limits. */
  keys?: Record<string, string>;
  /** State folder; absent: a temporary one. Only one process at a time may use it. */
  state?: string;
  entries?: Record<string, string>;
  assets?: string;
}

export type BareEdge = ReturnType<typeof bareEdge>;

/** `environment`: absent for the top level. `bundle` writes the bundles; absent: bundles the configuration's Worker. */
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

/** `directory` holds the files of bundle.ts. This edge owns and removes the folder. */
export function bareEdge(directory: string, worker: WorkerSettings, assetsFolder: string) {
  return {
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
      // The configuration holds secrets, so only this user may read it.
      await writeFile(file, text, { mode: 0o600 });
      return startWorkerd(file, options);
    },
    /** Removes the edge's folder with its temporary state folders. Their processes must have ended. */
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
