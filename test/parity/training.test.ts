/** Ties training to serving: what evaluation calls the loss of a text is what the serving graph gives its tokens. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { bankOf, gatesOf, readHyperNetwork } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readModelFolder } from "../../gpu-backend/models/safetensors/model-folder.ts";
import { floatsOf, weightOf } from "../../gpu-backend/runtime/model-weights.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import { openSession, tensor } from "../../gpu-backend/runtime/session.ts";
import { createTrunkRunner } from "../../gpu-backend/runtime/trunk-runner.ts";
import { LossMeter } from "../../gpu-backend/training/bank/loss.ts";
import { hyperNetworkAdapters, measureWindows, perplexityOf } from "../../gpu-backend/training/bank/measure.ts";
import { bankShape, type ParameterName, type Parameters } from "../../gpu-backend/training/bank/parameters.ts";
import { buildTrainingGraph, type HeadFormat, headIn } from "../../gpu-backend/training/bank/training-graph.ts";
import { embedWindows } from "../../gpu-backend/training/clustering/placement.ts";
import { prefixTokens, targetsOf, windowsOf } from "../../gpu-backend/training/corpus/windows.ts";
import { HiddenStates } from "../../gpu-backend/training/hidden-states.ts";
import { edgeTableFile, hyperNetworkFile, parseManifest, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { readTensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { promptEmbedding, rankCentroids, readEdgeTable } from "../../shared/math/assignment.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { smallBase } from "../support/small-base.ts";
import { noPast, stepOf } from "../support/steps.ts";

/** Nats a token. Training keeps hidden states in half precision; a wrong shift, gate or prefix costs 0.01 and more. */
const tolerance = 2e-4;

test("perplexity by training's loss graph equals perplexity by the serving graph", async () => {
  const model = await readModelFolder(smallBase);
  const read = async (name: string) => readFile(join(smallBase, "artifacts", name));
  const manifest = parseManifest(await readFile(join(smallBase, "artifacts/manifest.json"), "utf8"));
  const tensors = readTensorFile(await read(hyperNetworkFile));
  const { table, centroids } = readEdgeTable(readTensorFile(await read(edgeTableFile)));
  const tokenizer = Tokenizer.fromTensors(readTensorFile(await read(tokenizerFile)));
  const text = await readFile(fileURLToPath(import.meta.url), "utf8");
  const windows = windowsOf(0, 0, Int32Array.from(tokenizer.encode(text))).slice(0, 4);
  const scales = Float32Array.from(manifest.centroids, ({ scale }) => scale);

  // Training's way: the trunk's hidden states on disk, then the loss graph.
  const folder = await mkdtemp(join(tmpdir(), "parity-"));
  const { hiddenSize: D, vocabularySize: V } = model.config;
  const trunk = await createTrunkRunner({ ...model, threads: 1 });
  const states = await HiddenStates.open(join(folder, "hidden.f16"), windows, D, trunk, () => {});
  const head = {
    hiddenSize: D,
    vocabularySize: V,
    tokenEmbedding: floatsOf(weightOf(model.weights, "model.embed_tokens.weight")),
  };
  const shape = bankShape({ ...manifest.hyperNetwork, dimensions: manifest.embedding.dimensions });
  const names: ParameterName[] = ["w1", "b1", "w2", "b2", "a", "b"];
  const parameters: Parameters = new Map(names.map((name) => [name, toFloat32(tensorOf(tensors, name))]));
  const meter = await LossMeter.open(head, shape, 1);
  const set = { windows, states, firstState: 0, embeddings: embedWindows(windows, table) };
  const measured = await measureWindows(meter, set, hyperNetworkAdapters(head, shape, parameters, centroids), scales);

  // Serving's way: the step runner over whole windows, gates from the files, the prefix assigned as the edge does.
  const network = readHyperNetwork(tensors);
  const runner = await createStepRunner({ ...model, bank: bankOf(tensors), threads: 1 });
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
  await Promise.all([trunk.release(), meter.release(), runner.release(), states.close()]);
  await rm(folder, { recursive: true });
});

test("a head rounded to int8 gives training the gradients of the head itself, but for a few thousandths", async () => {
  const { config, weights } = await readModelFolder(smallBase);
  const { hiddenSize: D, vocabularySize: V } = config;
  const tokenizer = Tokenizer.fromTensors(readTensorFile(await readFile(join(smallBase, "artifacts", tokenizerFile))));
  const text = await readFile(fileURLToPath(import.meta.url), "utf8");
  const [{ tokenIds }] = windowsOf(0, 0, Int32Array.from(tokenizer.encode(text)));
  const trunk = await createTrunkRunner({ config, weights, threads: 1 });
  const N = tokenIds.length - 1;
  const hidden = (await trunk.hidden(tokenIds, 1, tokenIds.length)).slice(0, N * D);
  await trunk.release();
  // The bank that ships: what training has in hand towards its end.
  const file = readTensorFile(await readFile(join(smallBase, "artifacts", hyperNetworkFile)));
  const names = ["w1", "b1", "w2", "b2", "a", "b"] as const;
  const bank = bankOf(file);
  const [hiddenUnits, dimensions] = tensorOf(file, "w1").shape;
  const rank = bank.a0.filter((x) => x === 0).length;
  const shape = bankShape({ rank, biases: bank.gates - rank, hidden: hiddenUnits, dimensions });
  const head = {
    vocabularySize: V,
    hiddenSize: D,
    tokenEmbedding: floatsOf(weightOf(weights, "model.embed_tokens.weight")),
  };
  const gradientsIn = async (format: HeadFormat) => {
    const graph = buildTrainingGraph(headIn(format, head), shape);
    const session = await openSession(graph, { threads: 1 });
    const results = await session.run({
      ...Object.fromEntries(
        names.map((name) => [name, tensor(toFloat32(tensorOf(file, name)), tensorOf(file, name).shape)]),
      ),
      hidden: tensor(hidden, [N, D]),
      targets: tensor(tokenIds.slice(1), [N]),
      weight: tensor(Float32Array.of(1 / N), []),
      window_of: tensor(new Int32Array(N), [N]),
      embeddings: tensor(toFloat32(tensorOf(file, "centroids")).slice(0, dimensions), [1, dimensions]),
    });
    await session.release();
    return results;
  };
  const [exact, rounded] = [await gradientsIn("fp32"), await gradientsIn("int8")];
  const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  for (const name of names) {
    const [x, y] = [exact, rounded].map((results) => results[`d_${name}`].data as Float32Array);
    const cosine = dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y));
    const length = Math.sqrt(dot(y, y) / dot(x, x));
    expect(cosine).toBeGreaterThan(0.999);
    expect(cosine).toBeLessThan(1);
    expect(Math.abs(length - 1)).toBeLessThan(0.01);
  }
  const mean = (values: Float32Array) => values.reduce((sum, x) => sum + x, 0) / N;
  const bias = mean(rounded.nll.data as Float32Array) - mean(exact.nll.data as Float32Array);
  expect(Math.abs(bias)).toBeLessThan(0.01);
});
