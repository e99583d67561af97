/** `npm run publish` into the bucket of a local edge, a folder: one of two publishers at once switches. */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type ArtifactSet, readArtifactSet } from "../../infra/publish/artifact-set.ts";
import { listSwitches, publishSet } from "../../infra/publish/publish.ts";
import { folderStore } from "../../infra/publish/store.ts";
import { stateFolders } from "../../infra/workerd/config.ts";
import { pointerName } from "../../shared/artifacts/bucket.ts";
import { variantOf, writeTinyModel } from "../support/tiny-model.ts";

const cli = fileURLToPath(new URL("../../infra/publish/cli.ts", import.meta.url));
let folder: string;
let state: string;
let bucket: string;
let sets: ArtifactSet[];
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "publish-local-"));
  state = path.join(folder, "state");
  bucket = stateFolders.bucket(state, "ARTIFACTS");
  const model = path.join(folder, "model");
  await writeTinyModel(model);
  const folders = ["one", "two"].map((name) => variantOf(model, path.join(folder, name), name));
  sets = await Promise.all([path.join(model, "artifacts"), ...(await Promise.all(folders))].map(readArtifactSet));
});
afterAll(() => rm(folder, { recursive: true, maxRetries: 3 }));

async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = { ...process.env, STATE_DIR: state, CLOUDFLARE_ACCOUNT_ID: "", AWS_ACCESS_KEY_ID: "" };
  return promisify(execFile)(process.execPath, [cli, ...args], { env }).then(
    (output) => ({ code: 0, ...output }),
    (error) => ({ code: error.code, stdout: error.stdout, stderr: error.stderr }),
  );
}

test("of publishers at once one switches each time, and no switch is lost", async () => {
  const store = folderStore(bucket);
  const publisher = { store, now: () => new Date(0), say: () => undefined };
  const switched: string[] = [];
  for (const rivals of [sets, sets.slice(1)]) {
    const outcomes = await Promise.allSettled(rivals.map((set) => publishSet(publisher, set)));
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") expect(String(outcome.reason)).toContain("another publisher");
      else if (outcome.value.switched) switched.unshift(outcome.value.manifest);
    }
  }
  expect(switched.length).toBeGreaterThan(0);
  expect((await listSwitches(store)).map(({ manifest }) => manifest)).toEqual(switched);
});

test("the lock of a publisher that was killed is passed over, a running one's is not", async () => {
  const lock = path.join(bucket, `${pointerName}.lock`);
  const { bytes, etag } = (await folderStore(bucket).get(pointerName, 1e6))!;
  const replace = () => folderStore(bucket).replace(pointerName, bytes, etag, {});
  await writeFile(lock, "");
  expect(await replace()).toBe(false);
  await utimes(lock, 0, 0);
  expect(await replace()).toBe(true);
});

test("the command publishes, lists and goes back", async () => {
  const before = await listSwitches(folderStore(bucket));
  const next = before[0].manifest === sets[1].manifestHash ? sets[2] : sets[1];
  const published = await run("--artifacts", path.join(folder, next === sets[1] ? "one" : "two"));
  expect([published.code, published.stdout.trim()]).toEqual([0, next.manifestHash]);
  const back = await run("--rollback", "--json");
  expect(JSON.parse(back.stdout)).toMatchObject({ manifest: before[0].manifest, switched: true });
  const { stdout } = await run("--list", "--json");
  const switches = JSON.parse(stdout);
  expect(switches).toHaveLength(before.length + 2);
  expect(JSON.parse(await readFile(path.join(bucket, pointerName), "utf8")).switches).toEqual(switches);
});

test("what it cannot do is one clear line", async () => {
  const cases: [string[], number, RegExp][] = [
    [["--artifacts", path.join(folder, "none")], 1, /^chameleon publish: cannot read .*manifest\.json/],
    [["--to", "xyz"], 2, /^chameleon publish: option '--to <hash>' argument 'xyz' is invalid/],
    [["--remote", "--list"], 1, /^chameleon publish: publishing to R2 needs CLOUDFLARE_ACCOUNT_ID/],
  ];
  for (const [args, exitCode, message] of cases) {
    const { code, stdout, stderr } = await run(...args);
    expect({ code, stdout }).toEqual({ code: exitCode, stdout: "" });
    expect(stderr).toMatch(message);
  }
});
