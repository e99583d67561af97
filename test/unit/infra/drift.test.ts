/** Synthetic traffic that drifts and that does not, and counters of backends that come and go. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { added, chiSquared95, driftOf, majorIndex, since } from "../../../infra/drift/drift.ts";
import { folded, totalOf } from "../../../infra/drift/state.ts";
import { parseSignature } from "../../../shared/contracts/call-signature.ts";
import type { AssignmentReport } from "../../../shared/contracts/inference.ts";
import {
  type AssignmentCounts,
  emptyProfile,
  promptClasses,
  similarityBinOf,
} from "../../../shared/math/assignment-profile.ts";
import { seededRandom } from "../../support/steps.ts";
import { writeTinyModel } from "../../support/tiny-model.ts";

const seed = 29;
const K = 16;
/** Where text falls that is like training's: some centroids are ten times as common as others; short prompts wander. */
const mixture = Array.from({ length: K }, (_, k) => 1 + (k % 10));

function draw(random: () => number, weights: readonly number[]): number {
  let left = random() * weights.reduce((a, b) => a + b);
  return weights.findIndex((weight) => {
    left -= weight;
    return left < 0;
  });
}

/** Counts of `prompts` prompts whose lengths are of the classes with these weights. */
function traffic(
  random: () => number,
  prompts: number,
  options: { weights?: readonly number[]; lengths?: readonly number[]; closeness?: number } = {},
): AssignmentCounts[] {
  const { weights = mixture, lengths = promptClasses.map(() => 1), closeness = 0.5 } = options;
  const counts = emptyProfile(weights.length);
  for (let i = 0; i < prompts; i++) {
    const c = draw(random, lengths);
    const wanders = random() < 0.5 - 0.1 * c;
    counts[c].centroids[wanders ? Math.floor(random() * weights.length) : draw(random, weights)]++;
    const similarity = closeness - 0.05 * (promptClasses.length - c) + 0.2 * (random() + random() - 1);
    counts[c].similarities[similarityBinOf(similarity)]++;
  }
  return counts;
}

/** As training records it: each window in every class. */
function recorded(random: () => number, windows: number): AssignmentCounts[] {
  return promptClasses.map((_, c) => {
    const only = promptClasses.map((_, other) => (other === c ? 1 : 0));
    return traffic(random, windows, { lengths: only })[c];
  });
}

test("traffic like training's is fine, however long its prompts are: 200 of 200", () => {
  console.log(`seed ${seed}`);
  const random = seededRandom(seed);
  let largest = 0;
  for (let i = 0; i < 200; i++) {
    const lengths = promptClasses.map(() => random() ** 3);
    const result = driftOf(traffic(random, 500 + i * 20, { lengths }), recorded(random, 1500), 500);
    expect(result.verdict).toBe("fine");
    largest = Math.max(largest, result.centroids!.psi, result.similarities!.psi);
  }
  console.log(`largest index ${largest.toFixed(3)}, ${majorIndex} is major`);
});

test("chance exceeds what it is said to stay below in about 5 of 100 cases", () => {
  const random = seededRandom(seed);
  let exceeded = 0;
  const cases = 200;
  for (let i = 0; i < cases; i++) {
    const lengths = promptClasses.map((_, c) => (c === 4 ? 1 : 0));
    const { centroids } = driftOf(traffic(random, 1000, { lengths }), recorded(random, 700), 500);
    if (centroids!.psi > centroids!.chance) exceeded++;
  }
  console.log(`${exceeded} of ${cases}`);
  expect(exceeded / cases).toBeGreaterThan(0.01);
  expect(exceeded / cases).toBeLessThan(0.1);
});

test("traffic of other subjects, or less like any centroid, asks for training", () => {
  const random = seededRandom(seed);
  const reference = recorded(random, 1500);
  const elsewhere = mixture.map((weight, k) => (k === 3 ? 60 : weight));
  const moved = driftOf(traffic(random, 3000, { weights: elsewhere }), reference, 500);
  expect(moved).toMatchObject({ verdict: "retrain", prompts: 3000 });
  expect(moved.centroids!.psi).toBeGreaterThan(majorIndex);
  expect(moved.centroids!.live[3]).toBeGreaterThan(2 * moved.centroids!.expected[3]);
  const farther = driftOf(traffic(random, 3000, { closeness: 0.35 }), reference, 500);
  expect(farther.verdict).toBe("retrain");
  expect(farther.similarity!.live).toBeLessThan(farther.similarity!.expected);
  expect(driftOf(traffic(random, 3000, { closeness: 0.65 }), reference, 500).verdict).toBe("fine");
});

test("of too few prompts nothing is said, however they fall", () => {
  const reference = recorded(seededRandom(seed), 1500);
  const live = emptyProfile(K);
  live[4].centroids[0] = 499;
  live[4].similarities[0] = 499;
  expect(driftOf(live, reference, 500)).toMatchObject({ verdict: "too few requests", prompts: 499, centroids: null });
  live[4].centroids[0]++;
  live[4].similarities[0]++;
  expect(driftOf(live, reference, 500).verdict).toBe("retrain");
});

test("counts of other centroids are refused, with both numbers", () => {
  expect(() => driftOf(emptyProfile(3), emptyProfile(4), 1)).toThrow(/3 centroids.*4/);
});

test("quantiles of χ² are the tables'", () => {
  for (const [degrees, quantile] of [
    [9, 16.919],
    [15, 24.996],
    [63, 82.529],
  ]) {
    expect(chiSquared95(degrees)).toBeCloseTo(quantile, 1);
  }
});

/** `n` prompts, all alike. */
const counted = (n: number): AssignmentCounts[] => {
  const counts = emptyProfile(2);
  counts[4].centroids[1] = n;
  counts[4].similarities[5] = n;
  return counts;
};
const report = (run: string, n: number, manifestHash = "a".repeat(64)): AssignmentReport => ({
  ...{ run, manifestHash },
  classes: counted(n),
});

test("counters that begin at zero again lose nothing, and several backends are summed", () => {
  let state = folded(null, [report("one", 100), report("two", 50)], "2026-11-01", 7);
  state = folded(state, [report("one", 160), report("two", 50)], "2026-11-02", 7);
  // Backend one was started again, and has counted 30 since.
  state = folded(state, [report("three", 30), report("two", 90)], "2026-11-03", 7);
  expect(totalOf(state)).toEqual(counted(160 + 90 + 30));
  expect(Object.keys(state.days)).toEqual(["2026-11-01", "2026-11-02", "2026-11-03"]);
  // Asked twice, nothing came.
  expect(totalOf(folded(state, [report("three", 30), report("two", 90)], "2026-11-03", 7))).toEqual(counted(280));
});

test("old days go, and runs that were not seen since; another manifest begins anew", () => {
  let state = folded(null, [report("one", 100)], "2026-11-01", 7);
  state = folded(state, [report("two", 10)], "2026-11-07", 7);
  expect(totalOf(state)).toEqual(counted(110));
  state = folded(state, [report("two", 15)], "2026-11-08", 7);
  expect(totalOf(state)).toEqual(counted(15));
  expect(Object.keys(state.runs)).toEqual(["two"]);
  state = folded(state, [report("two", 4, "b".repeat(64))], "2026-11-08", 7);
  expect(totalOf(state)).toEqual(counted(4));
});

test("sums and differences are those of every bin", () => {
  expect(added(counted(3), counted(4))).toEqual(counted(7));
  expect(since(counted(7), counted(3))).toEqual(counted(4));
});

const cli = fileURLToPath(new URL("../../../infra/drift/cli.ts", import.meta.url));

function drift(
  args: readonly string[],
  secrets = "",
): Promise<{ code: number | null; output: string; errors: string }> {
  const child = spawn(process.execPath, [cli, ...args], { env: { ...process.env, BACKEND_SECRETS: secrets } });
  const said = { output: "", errors: "" };
  child.stdout.on("data", (text) => (said.output += text));
  child.stderr.on("data", (text) => (said.errors += text));
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, ...said })));
}

test("the command asks backends, keeps a state, and exits with its verdict", async () => {
  const folder = await mkdtemp(join(tmpdir(), "drift-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const { manifest } = await writeTinyModel(folder);
  const centroids = manifest.centroids.length;
  const random = seededRandom(seed);
  const weights = Array.from({ length: centroids }, (_, k) => k + 1);
  const assignments = promptClasses.map((_, c) => {
    const only = promptClasses.map((_, other) => (other === c ? 1 : 0));
    return traffic(random, 1500, { weights, lengths: only })[c];
  });
  const path = join(folder, "artifacts", "manifest.json");
  const text = JSON.stringify({ ...manifest, training: { ...manifest.training, assignments } });
  await writeFile(path, text);
  const manifestHash = createHash("sha256").update(text).digest("hex");
  let answer: AssignmentReport = { run: "one", manifestHash, classes: emptyProfile(centroids) };
  const signatures: string[] = [];
  const server = createServer(({ url, headers }, response) => {
    signatures.push(headers.authorization ?? "");
    response.writeHead(url === "/v1/assignments" ? 200 : 404).end(JSON.stringify(answer));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  const backend = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const common = ["--backend", backend, "--backend", backend, "--manifest", join(folder, "artifacts")];

  const few = await drift(common);
  expect(few).toMatchObject({ code: 4, output: "too few requests (0 of 500)\n" });

  answer = { ...answer, classes: traffic(random, 2000, { weights }) };
  const state = join(folder, "state.json");
  const json = join(folder, "drift.json");
  const secret = "s".repeat(32);
  const fine = await drift([...common, "--state", state, "--json", json, "--backend", "http://127.0.0.1:9"], secret);
  expect(fine.code, fine.errors).toBe(0);
  expect(fine.output).toMatch(/^fine: 2000 prompts\n/);
  expect(fine.errors).toContain("http://127.0.0.1:9 is left out");
  expect(JSON.parse(await readFile(json, "utf8"))).toMatchObject({ verdict: "fine", prompts: 2000, backends: 1 });
  expect(parseSignature(signatures.at(-1)!, "GET", "/v1/assignments")).not.toBeNull();

  answer = {
    run: "two",
    manifestHash,
    classes: traffic(random, 4000, { weights: weights.map((_, k) => (k === 0 ? 1 : 0)) }),
  };
  const moved = await drift([...common, "--state", state]);
  expect(moved.code, moved.errors).toBe(3);
  expect(moved.output).toMatch(/^retrain: 6000 prompts\n/);

  answer = { ...answer, manifestHash: "b".repeat(64) };
  const other = await drift(common);
  expect(other.code).toBe(1);
  expect(other.errors).toContain("b".repeat(64));
  expect(other.errors).toContain(manifestHash);
});
