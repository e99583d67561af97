/** The edge in a bare workerd, with regions around it (regional-worker.ts) and a fake backend in some. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Region } from "../../../edge/platform/region.ts";
import { prepareBareEdge } from "../../../infra/workerd/edge.ts";
import { type TenantRecord, tenantPrefix } from "../../../shared/contracts/tenants.ts";
import { startFakeBackend } from "../fake-backend.ts";
import { type Event, eventsPath, type RegionalSettings } from "./world.ts";

const root = path.join(import.meta.dirname, "../../..");
const BACKEND_SECRETS = "regions-0123456789abcdef0123456789abcdef";
export const key = "sk-chameleon-regions";
const tenant = "regions";
/** It has limits, so that each request asks for admission, and reaches none of them. */
const record: TenantRecord = {
  plan: "standard",
  limits: {
    requestsPerMinute: 100_000,
    tokensPerMinute: 100_000_000,
    concurrentRequests: 10_000,
    tokensPerMonth: 10_000_000_000,
  },
  origins: [],
};

export interface RegionalEdge {
  url: string;
  /** Returns what has happened since the last time. */
  takeEvents(): Promise<Event[]>;
  stop(): Promise<void>;
}

export async function startRegionalEdge(backendRegions: readonly Region[]): Promise<RegionalEdge> {
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async () => {
    for (const one of stops.reverse()) await one();
  };
  try {
    const assets = path.join(root, "edge/public");
    const sources = await mkdtemp(path.join(tmpdir(), "chameleon-regions-"));
    stops.push(() => rm(sources, { recursive: true, force: true }));
    const toml = await readFile(path.join(root, "wrangler.toml"), "utf8");
    const objects = objectsOf(toml);
    const configFile = await writeSources(sources, toml, objects);
    const bare = await prepareBareEdge(configFile);
    stops.push(async () => bare.remove());
    const backends: [Region, string][] = [];
    for (const region of backendRegions) {
      const backend = await startFakeBackend();
      stops.push(backend.stop);
      backends.push([region, backend.url]);
    }
    const regional: RegionalSettings = {
      namespaces: objects.map(({ binding }) => binding),
      backends: Object.fromEntries(backends.map(([region, url]) => [url, region])),
    };
    const vars = {
      BACKEND_SECRETS,
      BACKEND_URLS: backends.map(([region, url]) => `${region}=${url}`).join(","),
      REGIONAL: JSON.stringify(regional),
    };
    const entries = { [tenantPrefix + tenant]: JSON.stringify(record) };
    const workerd = await bare.start({ vars, keys: { [key]: tenant }, entries, assets });
    stops.push(() => workerd.stop());
    const takeEvents = async () => (await (await fetch(workerd.url + eventsPath)).json()) as Event[];
    return { url: workerd.url, takeEvents, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface ObjectBinding {
  binding: string;
  className: string;
}

/** Of the top level, which is all that is bundled. */
function objectsOf(toml: string): ObjectBinding[] {
  const found = toml.matchAll(/^\[\[durable_objects\.bindings\]\]\nname = "(\w+)"\nclass_name = "(\w+)"$/gm);
  return Array.from(found, ([, binding, className]) => ({ binding, className }));
}

/** Writes an entry that wraps the Worker, and a configuration for it. Returns the configuration's path. */
async function writeSources(into: string, toml: string, objects: ObjectBinding[]): Promise<string> {
  const wrapper = JSON.stringify(path.join(import.meta.dirname, "regional-worker.ts"));
  // A module of its own: it must run before the Worker's modules, which read the environment.
  const install = `import { env } from "cloudflare:workers";
import { install } from ${wrapper};
install(env);
`;
  const classes = objects.map(
    ({ binding, className }) => `export class ${className} extends app.${className} {
  constructor(state) { super(state, objectEnvironment("${binding}", state.id.name)); }
}
`,
  );
  const entry = `import "./install.js";
import * as app from ${JSON.stringify(path.join(root, "edge/worker.ts"))};
import { inRegions, objectEnvironment } from ${wrapper};
export default inRegions(app.default);
${classes.join("")}`;
  const configFile = path.join(into, "wrangler.toml");
  const config = toml
    .replace(/^main = .*$/m, 'main = "entry.js"\ncompatibility_flags = ["nodejs_als"]')
    .replace(/^directory = .*$/m, `directory = ${JSON.stringify(path.join(root, "edge/public"))}`);
  await Promise.all([
    writeFile(path.join(into, "install.js"), install),
    writeFile(path.join(into, "entry.js"), entry),
    writeFile(configFile, config),
  ]);
  return configFile;
}
