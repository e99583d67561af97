/** Ties training to serving: evaluation's loss of a text is the loss that the serving graph gives. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { bankOf, gatesOf, readHyperNetwork } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readModelFolder } from "../../gpu-backend/models/safetensors/model-folder.ts";
import { floatsOf, weightOf } from "../../gpu-backend/runtime/model-weights.ts";
import { createTrunkRunner } from "../../gpu-backend/runtime/trunk-runner.ts";
import { measureWindows, perplexityOf } from "../../gpu-backend/training/bank/measure.ts";
import { openReader, plainHead } from "../../gpu-backend/training/bank/reader.ts";
import { embedWindows } from "../../gpu-backend/training/clustering/placement.ts";
import { prefixTokens, targetsOf, windowsOf } from "../../gpu-backend/training/corpus/windows.ts";
import { hiddenStatesOf } from "../../gpu-backend/training/hidden-states.ts";
import { edgeTableFile, hyperNetworkFile, parseManifest, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { promptEmbedding, rankCentroids, readEdgeTable } from "../../shared/math/assignment.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { noPast, stepOf } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Nats a token. Training keeps hidden states in half precision; a wrong shift, gate or prefix costs 0.01 and more. */
const tolerance = 2e-4;
const silent = { stage() {}, advance() {}, note() {}, end() {} };

test("perplexity by training's loss graph equals perplexity by the serving graph", async () => {
  const model = await readModelFolder(smallBase);
  const read = async (name: string) => readFile(join(smallBase, "artifacts", name));
  const manifest = parseManifest(await readFile(join(smallBase, "artifacts/manifest.json"), "utf8"));
  const tensors = readTensorFile(await read(hyperNetworkFile));
  const { table, centroids } = readEdgeTable(readTensorFile(await read(edgeTableFile)));
  const tokenizer = Tokenizer.fromTensors(readTensorFile(await read(tokenizerFile)));
  const text = await readFile(import.meta.filename, "utf8");
  const windows = windowsOf(0, 0, Int32Array.from(tokenizer.encode(text))).slice(0, 4);
  const scales = Float32Array.from(manifest.centroids, ({ scale }) => scale);

  // The loss as training computes it: the trunk's hidden states on disk, then the loss graph.
  const folder = temporaryFolder();
  const { hiddenSize: D, vocabularySize: V } = model.config;
  const trunk = await createTrunkRunner({ ...model, threads: 1 });
  const run = { threads: 1, folder, progress: silent };
  const statesOf = await hiddenStatesOf(windows, "weights", async () => trunk, run);
  const head = {
    hiddenSize: D,
    vocabularySize: V,
    tokenEmbedding: floatsOf(weightOf(model.weights, "model.embed_tokens.weight")),
  };
  const network = readHyperNetwork(tensors);
  const bank = bankOf(tensors);
  const reader = await openReader(plainHead(head), bank, 1);
  const set = { windows, statesOf, embeddings: embedWindows(windows, table) };
  const measured = await measureWindows(reader, set, { bank, network, centroids }, scales);

  // The loss as serving computes it: the step runner over whole windows, gates from the files, centroids assigned as at the edge.
  const runner = await createStepRunner({ ...model, bank, threads: 1 });
  const served = [];
  for (const [i, window] of windows.entries()) {
    const { index } = rankCentroids(promptEmbedding(window.tokenIds.subarray(0, prefixTokens), table), centroids)[0];
    expect(index).toBe(measured[i].centroid);
    const gates = gatesOf(network, centroids.vectors.subarray(index * 64, (index + 1) * 64), scales[index]);
    const targets = targetsOf(window);
    const losses = { base: 0, adapted: 0 };
    for (const [name, rowGates] of Object.entries({ base: new Float32Array(gates.length), adapted: gates })) {
      const step = stepOf(model.config, [{ tokenIds: [...window.tokenIds], gates: rowGates, ...noPast(model.config) }]);
      step.headRows = Int32Array.from(targets, (_, n) => prefixTokens - 1 + n);
      step.targetIds = targets;
      step.gates = new Float32Array(targets.length * gates.length);
      for (let n = 0; n < targets.length; n++) step.gates.set(rowGates, n * gates.length);
      step.inverseTemperatures = new Float32Array(targets.length).fill(1);
      const { logSumExp, targetScores } = await runner.run(step);
      losses[name as keyof typeof losses] = logSumExp.reduce((sum, x, n) => sum + x - targetScores[n], 0);
    }
    served.push({ document: "0", tokens: targets.length, ...losses });
  }

  for (const of of ["base", "adapted"] as const) {
    const [training, serving] = [perplexityOf(measured, of), perplexityOf(served, of)];
    const difference = Math.abs(Math.log(training) - Math.log(serving));
    expect(difference).toBeLessThan(tolerance);
  }
  expect(measured.some(({ base, adapted }) => base !== adapted)).toBe(true);
  await Promise.all([reader.release(), runner.release()]);
});
