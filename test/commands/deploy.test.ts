/** `npm run deploy` with the real wrangler, against a local server in place of Cloudflare's API. */
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { beforeEach, expect, test, vi } from "vitest";
import { readEnvironment } from "../../infra/deploy/environment.ts";
import { wranglerPlatform } from "../../infra/deploy/platform.ts";
import { type RollOutParts, rollOut } from "../../infra/deploy/roll-out.ts";
import { smokeTest } from "../../infra/deploy/smoke.ts";
import { ControlPlane } from "../support/control-plane.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const worker = "small-production";
const limits = { settleMs: 0, retryMs: 0, requestMs: 10_000 };
const folder = temporaryFolder();
let plane: ControlPlane;

await writeFile(
  path.join(folder, "worker.js"),
  `import { DurableObject } from "cloudflare:workers";
   export class First extends DurableObject {}
   export default { fetch: () => new Response("ok") };`,
);
beforeEach(async () => {
  plane = new ControlPlane();
  await plane.start(worker, "v1");
  vi.stubEnv("CLOUDFLARE_API_BASE_URL", `${plane.url}/client/v4`);
  vi.stubEnv("NODE_COMPILE_CACHE", path.join(folder, "compiled"));
  vi.stubEnv("CLOUDFLARE_API_TOKEN", "token-of-nobody");
  vi.stubEnv("CLOUDFLARE_ACCOUNT_ID", "0".repeat(32));
  return () => {
    plane.stop();
    vi.unstubAllEnvs();
    expect(plane.unknown).toEqual([]);
  };
});

async function partsFor(migrations = ["v1"]): Promise<RollOutParts> {
  const steps = migrations.map(
    (tag) => `[[migrations]]\ntag = "${tag}"\n${tag === "v1" ? 'new_sqlite_classes = ["First"]' : ""}`,
  );
  await writeFile(
    path.join(folder, "wrangler.toml"),
    `name = "small"
     main = "worker.js"
     compatibility_date = "2026-11-17"
     workers_dev = false
     preview_urls = false
     ${steps.join("\n")}
     [env.absent]
     [env.production.vars]
     BACKEND_URLS = "https://backend.acme.dev"
     [[env.production.durable_objects.bindings]]
     name = "FIRST"
     class_name = "First"`,
  );
  const environment = readEnvironment(path.join(folder, "wrangler.toml"), "production");
  return {
    environment,
    platform: wranglerPlatform(environment),
    smoke: (version, isPicked, signal) =>
      smokeTest({ url: plane.url, worker: environment.worker, version, isPicked, key: "sk" }, limits, signal),
    say: () => undefined,
    confirm: async () => true,
    signal: new AbortController().signal,
  };
}

// Each test runs several wrangler commands, which take about a second each.
const timeout = 120_000;

test("a version that works is tested at 0 %, then gets every request", { timeout }, async () => {
  const version = await rollOut(await partsFor());
  expect(plane.versions.at(-1)!.id).toBe(version);
  expect(plane.deployments.slice(1).map(({ versions }) => versions.map((one) => one.percentage))).toEqual([
    [100, 0],
    [100],
  ]);
  expect(plane.shares).toEqual({ [version]: 100 });
});

test("a version that fails its test never gets a request, and the earlier one keeps all of them", {
  timeout,
}, async () => {
  plane.nextUpload = "broken";
  await expect(rollOut(await partsFor())).rejects.toThrow(/readyz was answered 503.*\nRolled back/);
  const [before, broken] = plane.versions.map(({ id }) => id);
  expect(plane.shares).toEqual({ [before]: 100 });
  const everGiven = plane.deployments.flatMap(({ versions }) => versions.filter((one) => one.version_id === broken));
  expect(everGiven.map(({ percentage }) => percentage)).toEqual([0]);
  expect(plane.traffic).not.toContain(broken);
});

test("an upload that the platform refuses leaves everything as it was", { timeout }, async () => {
  plane.nextUpload = "refused";
  const { platform } = await partsFor();
  await expect(platform.upload()).rejects.toThrow(/^wrangler versions upload: .*the script does not start/);
  expect(plane.deployments).toHaveLength(1);
  expect(plane.versions).toHaveLength(1);
});

test("a Worker that does not exist has no deployments and no secrets, which is no error", { timeout }, async () => {
  const { environment } = await partsFor();
  const platform = wranglerPlatform({ ...environment, name: "absent" });
  expect(await Promise.all([platform.deployments(), platform.secrets()])).toEqual([[], []]);
});

test("a migration is applied with a version for all requests, and no rollback crosses it", { timeout }, async () => {
  const { platform } = await partsFor(["v1", "v2"]);
  const version = await platform.deployAll();
  expect(plane.versions.at(-1)).toMatchObject({ id: version, migrationTag: "v2" });
  expect(plane.shares).toEqual({ [version]: 100 });
  await expect(platform.rollBack(plane.versions[0].id, "test")).rejects.toThrow("a migration lies between");
  expect(plane.shares).toEqual({ [version]: 100 });
});
