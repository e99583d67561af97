/** Ties calibration to serving: what it collects of a text is what the experts say by definition. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { bankOf, gatesOf, readHyperNetwork } from "../../gpu-backend/adapters/hyper-network.ts";
import { readModelFolder } from "../../gpu-backend/runtime/model-folder.ts";
import { createTrunkRunner } from "../../gpu-backend/runtime/trunk-runner.ts";
import { LossMeter } from "../../gpu-backend/training/bank/loss.ts";
import { hyperNetworkAdapters } from "../../gpu-backend/training/bank/measure.ts";
import { bankShape, type ParameterName, type Parameters } from "../../gpu-backend/training/bank/parameters.ts";
import { trialsOf } from "../../gpu-backend/training/calibration/trials.ts";
import { edgeTableFile, hyperNetworkFile, parseManifest, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { readTensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { promptEmbedding, rankCentroids, readEdgeTable } from "../../shared/math/assignment.ts";
import { calibratedPointer, positionsOfEvidence } from "../../shared/math/evidence.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { oracleHidden, oracleKeys, oracleLogits, oracleLogSumExp } from "../support/gpt2-oracle.ts";

/** Of a probability. */
const tolerance = 1e-5;
const modelFolder = fileURLToPath(new URL("../../gpu-backend/models/chameleon-mini", import.meta.url));

test("trials hold the probabilities of the base, of the nearest centroids' adapters and of the pointer", async () => {
  const model = await readModelFolder(modelFolder);
  const read = async (name: string) => readFile(join(modelFolder, "artifacts", name));
  const manifest = parseManifest(await readFile(join(modelFolder, "artifacts/manifest.json"), "utf8"));
  const tensors = readTensorFile(await read(hyperNetworkFile));
  const { table, centroids } = readEdgeTable(readTensorFile(await read(edgeTableFile)));
  const tokenizer = Tokenizer.fromTensors(readTensorFile(await read(tokenizerFile)));
  const text = await readFile(fileURLToPath(import.meta.url), "utf8");
  const tokenIds = Int32Array.from(tokenizer.encode(text)).slice(0, 96);
  // What comes after 64 tokens is one that they lack: a pointer that copied from beyond the prompt would find it.
  const prompt = new Set(tokenIds.subarray(0, 64));
  tokenIds.fill([...Array(500).keys()].find((id) => !prompt.has(id))!, 64);
  const { hiddenSize: D, vocabularySize: V } = model.config;
  const head = { hiddenSize: D, vocabularySize: V, tokenEmbedding: toFloat32(tensorOf(model.weights, "wte.weight")) };
  if (manifest.hyperNetwork.kind !== "gated-bank") throw new Error(`kind ${manifest.hyperNetwork.kind}`);
  const shape = bankShape({ ...manifest.hyperNetwork, dimensions: manifest.embedding.dimensions });
  const names: ParameterName[] = ["w1", "b1", "w2", "b2", "a", "b"];
  const parameters: Parameters = new Map(names.map((name) => [name, toFloat32(tensorOf(tensors, name))]));
  const rankedAfter = (promptTokens: number) =>
    rankCentroids(promptEmbedding(tokenIds.slice(0, Math.min(64, promptTokens)), table), centroids);
  // The nearest centroid is off, so the base stands in for it.
  const scales = Float32Array.from(manifest.centroids, ({ scale }) => scale);
  const off = rankedAfter(64)[0].index;
  scales[off] = 0;
  const trunk = await createTrunkRunner({ ...model, threads: 1 });
  const meter = await LossMeter.open(head, shape, 1);
  const trials = await trialsOf(
    { corpus: 0, document: 0, tokenIds },
    {
      ...{ trunk, meter, scales, table },
      adapters: hyperNetworkAdapters(head, shape, parameters, centroids),
    },
  );
  await Promise.all([trunk.release(), meter.release()]);
  expect(trials.map(({ promptTokens }) => promptTokens)).toEqual([8, 16, 32, 64]);

  const ids = [...tokenIds];
  const hidden = oracleHidden(model.config, model.weights, ids);
  const keys = oracleKeys(model.config, model.weights, ids);
  const bank = bankOf(tensors);
  const network = readHyperNetwork(tensors);
  const P = manifest.embedding.dimensions;
  const probability = (position: number, gates: Float32Array) => {
    const logits = oracleLogits(model.config, model.weights, hidden[position], bank, gates);
    return Math.exp(logits[ids[position + 1]] - oracleLogSumExp(logits));
  };
  const copied = (position: number, last: number) => {
    const masses = keys.slice(0, last).map((key) => {
      const cosine = key.reduce((sum, x, e) => sum + x * keys[position][e], 0);
      return Math.exp(calibratedPointer.sharpness * cosine);
    });
    const found = masses.filter((_, i) => ids[i + 1] === ids[position + 1]);
    const sumOf = (some: readonly number[]) => some.reduce((a, b) => a + b, 0);
    const sum = calibratedPointer.sentinel * Math.exp(calibratedPointer.sharpness) + sumOf(masses);
    return { all: sumOf(masses) / sum, found: sumOf(found) / sum };
  };
  let worst = 0;
  expect(trials.at(-1)!.nearest[0].isOff).toBe(true);
  for (const { promptTokens, nearest, evidence, continuation } of trials) {
    const ranked = rankedAfter(promptTokens).slice(0, 3);
    expect(nearest).toEqual(ranked.map(({ index, similarity }) => ({ similarity, isOff: scales[index] === 0 })));
    const gates = ranked
      .filter(({ index }) => scales[index] > 0)
      .map(({ index }) => gatesOf(network, centroids.vectors.subarray(index * P, (index + 1) * P), scales[index]));
    const positions = positionsOfEvidence(promptTokens);
    expect(evidence).toHaveLength(positions.length);
    expect(continuation).toHaveLength(Math.min(64, 96 - promptTokens));
    // Of two prompts, and there at the ends: the oracle takes its time.
    if (promptTokens !== 16 && promptTokens !== 64) continue;
    const seen = [1, positions.length - 1].map((i) => ({ at: positions[i], says: evidence[i], last: positions[i] }));
    const after = [0, continuation.length - 2].map((i) => {
      return { at: promptTokens - 1 + i, says: continuation[i], last: promptTokens - 1 };
    });
    for (const { at, says, last } of [...seen, ...after]) {
      const expected = [new Float32Array(bank.gates), ...gates].map((one) => probability(at, one));
      for (const [e, p] of expected.entries()) worst = Math.max(worst, Math.abs(says.experts[e] - p));
      const { all, found } = copied(at, last);
      worst = Math.max(worst, Math.abs(says.pointer.all - all), Math.abs(says.pointer.found - found));
    }
  }
  console.log(`max |trial − oracle| ${worst.toExponential(2)}`);
  expect(worst).toBeLessThan(tolerance);
});
