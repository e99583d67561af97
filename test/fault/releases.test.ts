/**
 * Worker and cells of releases next to each other, as while a deployment spreads: in one bare workerd, a Worker whose Durable
 * Objects are another build's. The release before is this one's source with the version before in its messages.
 */
import { createHash } from "node:crypto";
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import { type BareEdge, prepareBareEdge } from "../../infra/workerd/edge.ts";
import { startWorkerd } from "../../infra/workerd/process.ts";
import { type TenantRecord, tenantPrefix } from "../../shared/contracts/tenants.ts";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { type Answer, requestsOf, Traffic } from "./traffic.ts";

const root = path.join(import.meta.dirname, "../..");
const assets = path.join(root, "edge/public");
const key = "sk-chameleon-release";
const BACKEND_SECRETS = "release-0123456789abcdef0123456789abcdef";
/** Reached by none: each request is admitted and settled. */
const tenant: TenantRecord = { plan: "standard", limits: { requestsPerMinute: 100_000 }, origins: [] };
const streams = 24;
const tokens = 8;

let folder: string;
let backend: Backend;
let current: BareEdge;
let before: BareEdge;

beforeAll(async () => {
  await stageArtifacts();
  folder = await mkdtemp(path.join(tmpdir(), "chameleon-release-"));
  backend = await startBackend({ BACKEND_SECRETS, THREADS: "1" });
  current = await prepareBareEdge(path.join(root, "wrangler.toml"));
  before = await prepareBareEdge(await releaseBefore());
});
afterAll(async () => {
  backend?.child.kill("SIGKILL");
  await current?.remove();
  await before?.remove();
  await rm(folder, { recursive: true });
});

/** Writes the edge with the version before in its messages; returns its wrangler configuration. */
async function releaseBefore(): Promise<string> {
  const copied = (source: string) => !source.startsWith(assets);
  await cp(path.join(root, "edge"), path.join(folder, "edge"), { recursive: true, filter: copied });
  for (const name of ["shared", "node_modules"]) await symlink(path.join(root, name), path.join(folder, name));
  const file = path.join(folder, "edge/completions/cell-request.ts");
  const source = await readFile(file, "utf8");
  const changed = source.replace(/(?<=cellRequestVersion = )\d+/, (version) => String(Number(version) - 1));
  expect(changed).not.toBe(source);
  await writeFile(file, changed);
  const configFile = path.join(folder, "wrangler.toml");
  const config = await readFile(path.join(root, "wrangler.toml"), "utf8");
  await writeFile(configFile, config.replace(/^directory = .*$/m, `directory = ${JSON.stringify(assets)}`));
  return configFile;
}

async function answersOf(worker: BareEdge, objectsOf: BareEdge): Promise<Answer[]> {
  const hash = createHash("sha256").update(key).digest("hex");
  const TENANT_KEYS = JSON.stringify([{ hash, tenant: "release" }]);
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backend.url, TENANT_KEYS };
  const entries = { [`${tenantPrefix}release`]: JSON.stringify(tenant) };
  const edge = await startWorkerd(await worker.configure({ vars, entries, assets, objectsOf }));
  try {
    return await new Traffic({ url: edge.url, key }).run(requestsOf(streams, tokens), streams);
  } finally {
    await edge.stop();
  }
}

test("a Worker of the release before with cells of this one, and the reverse, give each client the same stream", async () => {
  const expected = await answersOf(current, current);
  expect(expected.map(({ failure }) => failure)).toEqual(expected.map(() => null));
  expect(new Set(expected.flatMap(({ seen }) => seen.texts)).size).toBeGreaterThan(streams / 2);
  for (const [worker, cells] of [
    [before, current],
    [current, before],
  ]) {
    const answers = await answersOf(worker, cells);
    expect(answers.map(({ failure, seen }) => ({ failure, seen }))).toEqual(
      expected.map(({ seen }) => ({ failure: null, seen })),
    );
  }
});
