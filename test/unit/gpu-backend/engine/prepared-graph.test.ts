import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { graphCodeHash, preparedGraph } from "../../../../gpu-backend/engine/prepared-graph.ts";
import { type ConstantFile, GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import { buildServingGraph } from "../../../../gpu-backend/runtime/model-graph.ts";
import { openStepRunner } from "../../../../gpu-backend/runtime/onnx-runner.ts";
import { randomWeights } from "../../../support/random-weights.ts";
import { noPast, randomBank, seededRandom, stepOf } from "../../../support/steps.ts";
import { tinyConfig } from "../../../support/tiny-model.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "prepared-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const now = () => 1_700_000_000_000;
const random = seededRandom(3);
const weights = randomWeights(tinyConfig, random);
const bank = randomBank(tinyConfig, 4, 0, random);
const build = (file?: ConstantFile) =>
  buildServingGraph(tinyConfig, weights, bank, { format: "int8", device: "cpu", file });

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
  const { size } = statSync(join(folder, "aa/graph.onnx"));
  expect(size).toBeLessThan(build().byteLength / 2);
});

test("a failed build leaves nothing", async () => {
  const fails = (file?: ConstantFile) => {
    file?.append(new Uint8Array(8192));
    throw new Error("bad weights");
  };
  await expect(preparedGraph(folder, "aa", fails, now)).rejects.toThrow("bad weights");
  expect(readdirSync(folder)).toEqual([]);
});

test("where the disk refuses, the graph is built in memory and nothing is left", async () => {
  const refuse = (file?: ConstantFile) => {
    if (file) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC", syscall: "write" });
    return build();
  };
  const prepared = await preparedGraph(folder, "aa", refuse, now);
  expect(prepared.warning).toBe("the prepared graph is not kept: ENOSPC: no space left on device");
  expect(prepared.graph).toEqual(build());
  expect(readdirSync(folder)).toEqual([]);
  writeFileSync(join(folder, "file"), "");
  expect((await preparedGraph(join(folder, "file"), "aa", build, now)).graph).toBeInstanceOf(Uint8Array);
});

test("two folders stay, those used last, and what a killed process left goes", async () => {
  const small = (file?: ConstantFile) => {
    file?.append(new Uint8Array(4096));
    return new GraphBuilder("small").bytes();
  };
  mkdirSync(join(folder, ".unfinished-old"));
  utimesSync(join(folder, ".unfinished-old"), 0, 0);
  mkdirSync(join(folder, ".unfinished-running"));
  let clock = now();
  for (const key of ["aa", "bb", "aa", "cc"]) await preparedGraph(folder, key, small, () => (clock += 60_000));
  expect(readdirSync(folder).sort()).toEqual([".unfinished-running", "aa", "cc"]);
});

test("constants begin on pages of their file, which is as long as they are", async () => {
  const written = [7, 4096, 5000];
  const starts: number[] = [];
  const parts = (file?: ConstantFile) => {
    for (const length of written) starts.push(file!.append(new Uint8Array(length).fill(length & 255)));
    return new Uint8Array(1);
  };
  await preparedGraph(folder, "aa", parts, now);
  expect(starts).toEqual([0, 4096, 8192]);
  const bytes = readFileSync(join(folder, "aa/constants.bin"));
  expect(bytes.length).toBe(8192 + 5000);
  starts.forEach((start, i) => {
    expect(bytes.subarray(start, start + written[i]).every((byte) => byte === (written[i] & 255))).toBe(true);
  });
});

test("the code's hash is that of the code", async () => {
  expect(await graphCodeHash()).toMatch(/^[0-9a-f]{64}$/);
  expect(await graphCodeHash()).toBe(await graphCodeHash());
});
