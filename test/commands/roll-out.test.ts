/**
 * `npm run publish` against `npm start` with two backends, under streams that never stop. Whatever is switched, no stream fails,
 * and each equals the undisturbed stream of its artifacts.
 */
import { execFile } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual, promisify } from "node:util";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { type Answer, type Body, requestsOf, Traffic } from "../fault/traffic.ts";
import { smallBase } from "../support/small-base.ts";
import { type Stack, startStack } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { variantOf } from "../support/tiny-model.ts";

const cli = fileURLToPath(new URL("../../infra/publish/cli.ts", import.meta.url));
const patience = { timeout: 60_000, interval: 100 };

const folder = temporaryFolder();
let stack: Stack;
let bodies: Body[];
/** `old` and `next`: hashes of two manifests. `expected`: for each set's fingerprint, the set's streams in a run without switches. */
let old: string;
let next: string;
let expected: Map<string, Answer[]>;
beforeAll(async () => {
  stack = await startStack({ THREADS: "1", DATA_DIR: path.join(folder, "data") }, ["--backends", "2"]);
  bodies = requestsOf(16, 16);

  // Before anything is published, the static assets and the model's own artifacts are served.
  old = (await publish("--dry-run")).manifest;
  const ofOld = await undisturbed(old);
  await publish();
  const variant = await variantOf(smallBase, path.join(folder, "variant"), "variant");
  next = (await publish("--artifacts", variant)).manifest;
  const ofNext = await undisturbed(next);
  expected = new Map([
    [fingerprintOf(old), ofOld],
    [fingerprintOf(next), ofNext],
  ]);
  const differing = ofOld.filter(({ seen }, i) => !isDeepStrictEqual(seen.texts, ofNext[i].seen.texts));
  expect(differing.length).toBeGreaterThan(bodies.length / 3);
});
afterAll(() => stack?.stop());

async function publish(...args: string[]): Promise<{ manifest: string; switched: boolean }> {
  const env = { ...process.env, STATE_DIR: stack.state };
  const { stdout } = await promisify(execFile)(process.execPath, [cli, "--json", ...args], { env });
  return JSON.parse(stdout);
}
/** The manifest that /readyz names. The request also makes the edge check which manifest is published. */
async function served(): Promise<string> {
  const response = await fetch(`${stack.edge}/readyz`);
  return response.ok ? ((await response.json()) as { manifest: string }).manifest : `status ${response.status}`;
}
const fingerprintOf = (manifest: string) => `fp_${manifest.slice(0, 12)}`;
const traffic = () => new Traffic({ url: stack.edge, key: stack.key });

async function undisturbed(manifest: string): Promise<Answer[]> {
  await vi.waitFor(async () => expect(await served()).toBe(manifest), patience);
  const answers = await traffic().run(bodies);
  for (const { failure, fingerprints } of answers) {
    expect([failure, [...fingerprints]]).toEqual([null, [fingerprintOf(manifest)]]);
  }
  return answers;
}

/** Sends the streams again and again while `work` runs, and once more after it. */
async function under(work: () => Promise<void>): Promise<Answer[]> {
  const answers: Answer[] = [];
  let isOver = false;
  const working = work().finally(() => {
    isOver = true;
  });
  do answers.push(...(await traffic().run(bodies)));
  while (!isOver);
  await working;
  answers.push(...(await traffic().run(bodies)));
  return answers;
}

/** Checks that each stream is whole, of one set of artifacts, and undisturbed. Returns the number of streams by fingerprint. */
function requireUndisturbed(answers: readonly Answer[], expected: ReadonlyMap<string, readonly Answer[]>) {
  const counts = new Map<string, number>();
  for (const [i, { failure, fingerprints, seen }] of answers.entries()) {
    expect(failure).toBeNull();
    expect(fingerprints.size).toBe(1);
    const [fingerprint] = fingerprints;
    const alone = expected.get(fingerprint)?.[i % bodies.length].seen;
    expect(isDeepStrictEqual(seen, alone), `${fingerprint}: ${JSON.stringify([seen, alone])}`).toBe(true);
    counts.set(fingerprint, (counts.get(fingerprint) ?? 0) + 1);
  }
  return counts;
}

test("switches and rollbacks: no stream fails, each is what its artifacts give undisturbed", async () => {
  const answers = await under(async () => {
    for (const [args, manifest] of [
      [["--rollback"], old],
      [["--to", next.slice(0, 10)], next],
    ] as const) {
      expect(await publish(...args)).toMatchObject({ manifest, switched: true });
      await expect.poll(served, patience).toBe(manifest);
    }
  });
  const counts = requireUndisturbed(answers, expected);
  expect(counts.size).toBe(2);
});

test("a backend that holds both sets is killed during a switch: the other one serves both", async () => {
  const answers = await under(async () => {
    process.kill(stack.backends[0].pid, "SIGKILL");
    await publish("--rollback");
    await expect.poll(served, patience).toBe(old);
  });
  requireUndisturbed(answers, expected);
});
