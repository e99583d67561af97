import * as fs from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import {
  type GraphSource,
  graphCodeHash,
  graphKey,
  preparedGraph,
} from "../../../../gpu-backend/engine/prepared-graph.ts";
import { type ConstantFile, GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import type { ModelConfig } from "../../../../gpu-backend/runtime/model-config.ts";
import { buildServingGraph } from "../../../../gpu-backend/runtime/model-graph.ts";
import { openStepRunner } from "../../../../gpu-backend/runtime/onnx-runner.ts";
import { randomWeights } from "../../../support/random-weights.ts";
import { noPast, randomBank, seededRandom, stepOf } from "../../../support/steps.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";
import { tinyLlama } from "../../../support/tiny-families.ts";
import { tinyConfig } from "../../../support/tiny-model.ts";

let folder: string;
beforeEach(() => {
  folder = temporaryFolder();
});

const now = () => 1_700_000_000_000;
const random = seededRandom(3);
const weights = randomWeights(tinyConfig, random);
const bank = randomBank(tinyConfig, 4, 0, random);
const build = (file?: ConstantFile) => buildServingGraph(tinyConfig, weights, bank, { format: "int8", file });

async function scoresOf(graph: string | Uint8Array): Promise<number[]> {
  const runner = await openStepRunner(graph, { config: tinyConfig, bank, threads: 1 });
  const row = { tokenIds: [5, 6, 7, 8], gates: new Float32Array(4).fill(0.5), ...noPast(tinyConfig) };
  const { scores } = await runner.run(stepOf(tinyConfig, [row]));
  await runner.release();
  return [...scores!];
}

test("a graph with its constants in a file computes the bits of the graph in memory, and the next start builds nothing", async () => {
  const first = await preparedGraph(folder, "aa", build, now);
  expect(first.warning).toBeNull();
  const again = await preparedGraph(folder, "aa", () => expect.fail("built twice"), now);
  expect(again).toEqual(first);
  expect(await scoresOf(first.graph)).toEqual(await scoresOf(build()));
  const { size } = fs.statSync(join(folder, "aa/graph.onnx"));
  expect(size).toBeLessThan(build().byteLength / 2);
});

test("where the disk refuses, the graph is built in memory and nothing is left", async () => {
  const refuse = (file?: ConstantFile) => {
    if (file) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC", syscall: "write" });
    return build();
  };
  const prepared = await preparedGraph(folder, "aa", refuse, now);
  expect(prepared.warning).toBe("the prepared graph is not kept: ENOSPC: no space left on device");
  expect(prepared.graph).toEqual(build());
  expect(fs.readdirSync(folder)).toEqual([]);
  fs.writeFileSync(join(folder, "file"), "");
  expect((await preparedGraph(join(folder, "file"), "aa", build, now)).graph).toBeInstanceOf(Uint8Array);
});

test("the two folders used last stay, and remains of a killed process are removed", async () => {
  const small = (file?: ConstantFile) => {
    file?.append(new Uint8Array(4096));
    return new GraphBuilder("small").bytes();
  };
  fs.mkdirSync(join(folder, ".unfinished-old"));
  fs.utimesSync(join(folder, ".unfinished-old"), 0, 0);
  fs.mkdirSync(join(folder, ".unfinished-running"));
  let clock = now();
  for (const key of ["aa", "bb", "aa", "cc"]) await preparedGraph(folder, key, small, () => (clock += 60_000));
  expect(fs.readdirSync(folder).sort()).toEqual([".unfinished-running", "aa", "cc"]);
});

test.each<[string, (path: string) => void]>([
  ["no constants", (path) => fs.rmSync(join(path, "constants.bin"))],
  ["fewer constants", (path) => fs.truncateSync(join(path, "constants.bin"), 4096)],
  ["half a graph", (path) => fs.truncateSync(join(path, "graph.onnx"), 100)],
  ["no graph", (path) => fs.rmSync(join(path, "graph.onnx"))],
  ["no sizes", (path) => fs.rmSync(join(path, "sizes.txt"))],
  ["nothing in its folder", (path) => fs.readdirSync(path).forEach((name) => void fs.rmSync(join(path, name)))],
])("a graph that has %s is built again, and kept", async (_, harm) => {
  const first = await preparedGraph(folder, "aa", build, now);
  const scores = await scoresOf(first.graph);
  harm(join(folder, "aa"));
  expect(await preparedGraph(folder, "aa", build, now)).toEqual(first);
  expect(await scoresOf(first.graph)).toEqual(scores);
  expect(await preparedGraph(folder, "aa", () => expect.fail("built twice"), now)).toEqual(first);
  expect(fs.readdirSync(folder)).toEqual(["aa"]);
});

test("when two processes start at once, the slower one takes the graph of the faster one", async () => {
  await preparedGraph(folder, "other", build, now);
  let built = 0;
  const overtaken = (file?: ConstantFile) => {
    built++;
    fs.cpSync(join(folder, "other"), join(folder, "aa"), { recursive: true });
    return build(file);
  };
  const prepared = await preparedGraph(folder, "aa", overtaken, now);
  expect(prepared).toEqual({ graph: join(folder, "aa/graph.onnx"), warning: null });
  expect(built).toBe(1);
  expect(fs.readdirSync(folder).sort()).toEqual(["aa", "other"]);
});

test("the key is of the whole configuration: the same weights make another graph with other positions or norms", async () => {
  const source: GraphSource = {
    ...{ config: tinyLlama, weights: "w", manifest: "m", smoothing: undefined },
    ...{ format: "int8" },
  };
  const others: Partial<ModelConfig>[] = [
    { positions: { theta: 10_000, scaling: null } },
    { normEpsilon: 1e-6 },
    { heads: 3, headWidth: 32 },
  ];
  const keys = [source, ...others.map((other) => ({ ...source, config: { ...tinyLlama, ...other } }))].map(graphKey);
  expect(new Set(await Promise.all(keys)).size).toBe(4);
  expect(await graphKey({ ...source })).toBe(await keys[0]);
});

test.each([
  "gpu-backend/runtime/graph.ts",
  "gpu-backend/models/base.ts",
  "gpu-backend/models/gguf/model.ts",
  "gpu-backend/models/safetensors/gpt2-weights.ts",
  "gpu-backend/models/gguf/model.js",
  "shared/math/float16.ts",
])("other code in %s has another hash", async (file) => {
  for (const name of ["models/gguf", "models/safetensors", "runtime"])
    fs.mkdirSync(join(folder, "gpu-backend", name), { recursive: true });
  for (const name of ["math", "artifacts"]) fs.mkdirSync(join(folder, "shared", name), { recursive: true });
  fs.writeFileSync(join(folder, file), "one");
  const before = await graphCodeHash(folder);
  fs.writeFileSync(join(folder, file), "two");
  expect(await graphCodeHash(folder)).not.toBe(before);
});
