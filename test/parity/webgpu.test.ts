/** A runner on a WebGPU device against the one in the host's memory, for every part of a pass and for all that is done with rows. */
import { fileURLToPath } from "node:url";
import protobuf from "protobufjs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { type DeviceRunner, openDeviceRunner } from "../../gpu-backend/kv/device-runner.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import type { Kv, PassOutput, Runner } from "../../gpu-backend/kv/runner.ts";
import { readModelFolder } from "../../gpu-backend/models/safetensors/model-folder.ts";
import { buildCopy, buildDeviceHead, buildDeviceTrunk, buildRead } from "../../gpu-backend/runtime/device-graph.ts";
import { DeviceMemory } from "../../gpu-backend/runtime/device-memory.ts";
import { GraphBuilder } from "../../gpu-backend/runtime/graph.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { floatsOf, type ModelWeights } from "../../gpu-backend/runtime/model-weights.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { Bank, HeadInput, HiddenChange, ModelShape } from "../../gpu-backend/runtime/step.ts";
import { tensorFrom } from "../../shared/artifacts/tensor-file.ts";
import reference from "../fixtures/smollm2-reference.json" with { type: "json" };
import { embeddedBase } from "../support/embedded-base.ts";
import { createEngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { randomBlocks } from "../support/random-blocks.ts";
import { randomWeights } from "../support/random-weights.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { maxDifference, randomBank, seededRandom } from "../support/steps.ts";
import { tinyFamilies, tinyLlama } from "../support/tiny-families.ts";
import { webgpuFailure } from "../support/webgpu.ts";

/** Float32 sums of a few hundred products in different orders; logits are about 10. */
const float32Tolerance = 1e-4;
/** float16 rounds each operator's result by up to 5e-4 of it, and the random Llama's weights amplify errors. */
const float16Tolerance = 0.5;
const seed = 20_261_125;
const limits = { maxSequences: 40, chunkTokens: 64, kvBytes: 2 ** 27, threads: 1 };
const noChanges = { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) };
const failure = await webgpuFailure();

interface Model {
  config: ModelConfig;
  weights: ModelWeights;
  bank: Bank;
}

async function modelOf(family: "GPT-2" | "Llama", format: WeightFormat = "fp32"): Promise<Model> {
  const random = seededRandom(seed);
  const llama = () => (format === "exact" ? randomBlocks(tinyLlama, random) : randomWeights(tinyLlama, random, 0.25));
  const model = family === "GPT-2" ? await readModelFolder(smallBase) : { config: tinyLlama, weights: llama() };
  return { ...model, bank: randomBank(model.config, 12, 3, random) };
}

async function openHostRunner(model: Model): Promise<HostRunner> {
  return new HostRunner(await createStepRunner({ ...model, threads: 1 }), limits);
}

/** The same random passes on several runners: rows are numbered, since each runner has handles of its own. */
class Twins {
  readonly #runners: readonly Runner[];
  readonly #random: () => number;
  readonly #tolerance: number;
  readonly #rows: Kv[][] = [];
  readonly #config: ModelShape;
  /** Outputs of the last pass, by runner. */
  outputs: readonly PassOutput[] = [];

  constructor({ random, tolerance }: { random: () => number; tolerance: number }, ...runners: Runner[]) {
    [this.#random, this.#tolerance] = [random, tolerance];
    [this.#runners, this.#config] = [runners, runners[0].config];
  }

  open(): number {
    return this.#rows.push(this.#runners.map(({ kv }) => kv.open(1))) - 1;
  }

  /** The handles of a row, by runner. */
  handles(row: number): readonly Kv[] {
    return this.#rows[row];
  }

  close(...rows: number[]): void {
    for (const row of rows) for (const [r, { kv }] of this.#runners.entries()) kv.close(this.#rows[row][r]);
  }

  park(row: number): void {
    for (const [r, { kv }] of this.#runners.entries()) kv.park(this.#rows[row][r]);
  }

  /** A row that begins with a copy of another's first positions. */
  fork(row: number, from: number, to: number, taken = to - from): number {
    const copy = this.open();
    for (const [r, { kv }] of this.#runners.entries()) {
      const own = this.#rows[copy][r];
      kv.place([{ kv: own, positions: taken }]);
      const block = kv.copy(this.#rows[row][r], from, to);
      kv.write(own, block, taken);
      block.free();
    }
    return copy;
  }

  /** Largest difference of the states at some positions of a row. */
  async states(row: number, positions: readonly number[]): Promise<number> {
    const found = this.#runners.map(({ kv }, r) =>
      kv.states(positions.map((position) => ({ kv: this.#rows[row][r], position }))),
    );
    const [expected, ...others] = await Promise.all(found);
    return Math.max(...others.flatMap((states) => states.map((state, i) => maxDifference(state, expected[i]))));
  }

  positions(row: number): number {
    return this.#rows[row][0].positions;
  }

  ids(count: number): number[] {
    return Array.from({ length: count }, () => Math.floor(this.#random() * this.#config.vocabularySize));
  }

  /** Head rows that ask for every output: all of a pass' numbers are compared. */
  head(N: number, changes: Partial<HeadInput> = {}): HeadInput {
    const { vocabularySize: V } = this.#config;
    const { gates } = this.#runners[0];
    return {
      gates: Float32Array.from({ length: N * gates }, () => this.#random() * 4 - 2),
      inverseTemperatures: Float32Array.from({ length: N }, (_, n) => (n === 0 ? 1 : 0.5 + this.#random())),
      targetIds: Int32Array.from(this.ids(N)),
      bias: {
        rows: Int32Array.of(0, N - 1),
        ids: Int32Array.of(11, V - 1),
        values: Float32Array.of(3, Number.NEGATIVE_INFINITY),
        penalties: Float32Array.of(1.3, 1),
      },
      want: { scores: true, hidden: true },
      ...changes,
    };
  }

  /** Runs a pass on all runners. `states`: positions of the head as [row, position]. Returns the largest difference from the first. */
  async run(
    phase: "prefill" | "decode",
    tokens: ReadonlyMap<number, readonly number[]>,
    states: readonly [number, number][],
    head: HeadInput,
  ): Promise<number> {
    const outputs: PassOutput[] = [];
    for (const [r, runner] of this.#runners.entries()) {
      const rows = [...tokens].map(([row, ids]) => ({ kv: this.#rows[row][r], tokens: ids }));
      runner.kv.place(rows.map(({ kv, tokens: ids }) => ({ kv, positions: kv.positions + ids.length })));
      const positions = states.map(([row, position]) => ({ kv: this.#rows[row][r], position }));
      outputs.push(await runner.run({ phase, rows, states: positions, head }));
    }
    this.outputs = outputs;
    const [expected, ...others] = outputs;
    return Math.max(...others.map((found) => differenceOf(found, expected, this.#tolerance)));
  }

  /** A prompt in chunks, then nothing: the head of each chunk is at its first and last token. */
  async prefill(row: number, ids: readonly number[]): Promise<number> {
    let difference = 0;
    for (let start = 0; start < ids.length; start += limits.chunkTokens) {
      const at = this.positions(row);
      const chunk = ids.slice(start, start + limits.chunkTokens);
      const states: [number, number][] = [0, chunk.length - 1].map((t) => [row, at + t]);
      difference = Math.max(difference, await this.run("prefill", new Map([[row, chunk]]), states, this.head(2)));
    }
    return difference;
  }

  /** A random next token of each row. */
  async decode(rows: readonly number[], changes: Partial<HeadInput> = {}): Promise<number> {
    const states = rows.map((row): [number, number] => [row, this.positions(row)]);
    return this.run("decode", new Map(rows.map((row) => [row, this.ids(1)])), states, this.head(rows.length, changes));
  }
}

/** Largest difference among the float outputs. Ranked ids must be equal, except where logits are equal within the tolerance. */
function differenceOf(found: PassOutput, expected: PassOutput, tolerance: number): number {
  expect(found.finite).toEqual(expected.finite);
  const { topCount, topScores, topIds } = expected;
  topIds.forEach((id, i) => {
    const gaps = [i - 1, i + 1]
      .filter((other) => Math.floor(other / topCount) === Math.floor(i / topCount))
      .map((other) => Math.abs(topScores[other] - topScores[i]));
    // The last candidate may be as likely as the next token, which is not among the candidates.
    const isLast = i % topCount === topCount - 1;
    if (!isLast && Math.min(...gaps) > tolerance) expect(found.topIds[i]).toBe(id);
  });
  const names = ["topScores", "logSumExp", "scaledLogSumExp", "targetScores", "scores", "hidden"] as const;
  const differences = names.map((name) => {
    const [own, other] = [found[name], expected[name]];
    expect(own === null).toBe(other === null);
    return own && other ? maxDifference(finiteOf(own), finiteOf(other)) : 0;
  });
  return Math.max(...differences);
}

const finiteOf = (values: Float32Array) => values.map((value) => (value === Number.NEGATIVE_INFINITY ? -1e9 : value));

const title = failure ? `, skipped: ${failure}` : "";
describe.skipIf(failure).each([
  ["GPT-2", "fp32", float32Tolerance],
  ["Llama", "fp32", float32Tolerance],
  ["GPT-2", "fp16", float16Tolerance],
  ["Llama", "fp16", float16Tolerance],
  ["Llama", "exact", float32Tolerance],
] as const)(`a %s on WebGPU in %s${title} (seed ${seed})`, (family, format, tolerance) => {
  const random = seededRandom(seed);
  let model: Model;
  let onCpu: HostRunner;
  let device: DeviceRunner;
  let twins: Twins;

  beforeAll(async () => {
    model = await modelOf(family, format);
    onCpu = await openHostRunner(model);
    device = await openDeviceRunner({ ...model, format }, limits);
    twins = new Twins({ random, tolerance }, onCpu, device);
  });
  afterAll(() => Promise.all([onCpu?.release(), device?.release()]));

  const promptOf = async (length: number) => {
    const row = twins.open();
    expect(await twins.prefill(row, twins.ids(length))).toBeLessThan(tolerance);
    return row;
  };

  // A run of 32 tokens or more is wrong by .01 where subgroups have 8 lanes, as those of the software adapter.
  test("prompts in chunks and ragged decode passes are the CPU's, in every output", async () => {
    const rows: number[] = [];
    for (const length of [150, 3, 64, 1, 31, 32]) rows.push(await promptOf(length));
    for (let step = 0; step < 3; step++) expect(await twins.decode(rows)).toBeLessThan(tolerance);
    // The rows between these do not decode, and must not change.
    expect(await twins.decode([rows[3], rows[1]])).toBeLessThan(tolerance);
    expect(await twins.decode(rows)).toBeLessThan(tolerance);
    twins.close(...rows);
  });

  test("two prompts whose chunks take turns are the CPU's", async () => {
    const rows = [twins.open(), twins.open()];
    const texts = rows.map(() => twins.ids(160));
    for (let start = 0; start < 160; start += 40) {
      for (const [i, row] of rows.entries()) {
        expect(await twins.prefill(row, texts[i].slice(start, start + 40))).toBeLessThan(tolerance);
      }
    }
    expect(await twins.decode(rows)).toBeLessThan(tolerance);
    twins.close(...rows);
  });

  test("a row that is as long as the context does not disturb the rows after it", async () => {
    const full = await promptOf(model.config.contextTokens);
    const rows = [await promptOf(20), await promptOf(9)];
    expect(await twins.decode(rows)).toBeLessThan(tolerance);
    expect(await twins.decode(rows)).toBeLessThan(tolerance);
    expect(await twins.states(full, [0, model.config.contextTokens - 1])).toBeLessThan(tolerance);
    twins.close(full, ...rows);
  });

  test("own adapters, alone and beside rows without, are the CPU's, also after they gave up their places", async () => {
    const rows = [await promptOf(5), await promptOf(7), await promptOf(2), await promptOf(9)];
    const { hiddenSize: D } = model.config;
    const floats = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
    const changes = Array.from({ length: 150 }, (): HiddenChange => ({ a: floats(D * 8), b: floats(9 * D) }));
    const weights = Float32Array.of(1, 0.5, 0.25, 0);
    for (let first = 0; first < 150; first += 15) {
      const own = { rows: Int32Array.of(1, 2), changes: changes.slice(first, first + 2) };
      expect(await twins.decode(rows, { own: { ...own, indexes: Int32Array.of(0, 1, 1, 0), weights } })).toBeLessThan(
        tolerance,
      );
    }
    const one = { rows: Int32Array.of(3), indexes: Int32Array.of(149), weights: Float32Array.of(1) };
    expect(await twins.decode(rows, { own: { ...one, changes } })).toBeLessThan(tolerance);
    expect(
      await twins.decode(rows, { own: { ...one, changes: changes.slice(0, 1), indexes: new Int32Array(1) } }),
    ).toBeLessThan(tolerance);
    expect(await twins.decode(rows)).toBeLessThan(tolerance);
    twins.close(...rows);
  });

  test("the head alone, several rows at a position of an earlier pass, and states are the CPU's", async () => {
    const rows = [await promptOf(70), await promptOf(70)];
    const states = [3, 40, 69].map((position): [number, number] => [rows[1], position]);
    const head = twins.head(5, { rows: Int32Array.of(2, 0, 0, 1, 2) });
    expect(await twins.run("decode", new Map(), states, head)).toBeLessThan(tolerance);
    expect(await twins.states(rows[1], [0, 69, 5])).toBeLessThan(tolerance);
    twins.close(...rows);
  });

  test("copied, parked, moved and resumed rows continue as the CPU's", async () => {
    const rows = [await promptOf(100), await promptOf(10), await promptOf(40), await promptOf(3), await promptOf(64)];
    const copies = [twins.fork(rows[0], 0, 64), twins.fork(rows[0], 64, 100, 20), twins.fork(rows[2], 0, 40, 17)];
    // A prompt continues after a copied beginning, also after one that ends within a chunk.
    for (const copy of [copies[0], copies[2]]) expect(await twins.prefill(copy, twins.ids(30))).toBeLessThan(tolerance);
    twins.close(copies[1]);
    expect(await twins.decode([...rows, copies[0]])).toBeLessThan(tolerance);
    twins.park(rows[0]);
    twins.close(rows[1], rows[2], rows[3]);
    const others = [rows[4], copies[0], copies[2]];
    for (const runner of [onCpu, device]) runner.kv.trim();
    expect(await twins.decode(others)).toBeLessThan(tolerance);
    const late = await promptOf(33);
    expect(await twins.decode([rows[0], late, ...others])).toBeLessThan(tolerance);
    twins.close(rows[0], late, ...others);
  });

  test("a row has the same bits alone as among three and among thirty-one others", async () => {
    const row = await promptOf(33);
    const scores: Float32Array[] = [];
    for (const mates of [0, 3, 31]) {
      const rows = [twins.fork(row, 0, 33), ...Array.from({ length: mates }, () => twins.fork(row, 0, 20))];
      const handles = rows.map((one) => twins.handles(one)[1]);
      const states = handles.map((kv) => ({ kv, position: kv.positions }));
      device.kv.place(states.map(({ kv }) => ({ kv, positions: kv.positions + 1 })));
      const head = { ...twins.head(rows.length), gates: new Float32Array(rows.length * device.gates), bias: noChanges };
      const decoded = handles.map((kv) => ({ kv, tokens: [7] }));
      const output = await device.run({ phase: "decode", rows: decoded, states, head });
      scores.push(output.scores!.slice(0, model.config.vocabularySize));
      twins.close(...rows);
    }
    expect(scores[1]).toEqual(scores[0]);
    expect(scores[2]).toEqual(scores[0]);
    twins.close(row);
  });

  test("a decode pass of 32 rows moves 64 kB at most, and allocates nothing on the device", async () => {
    const rows: number[] = [];
    for (let row = 0; row < 32; row++) rows.push(await promptOf(2 + row));
    const want = { scores: false, hidden: false };
    const head = { ...twins.head(32), want, bias: noChanges };
    const handles = rows.map((row) => twins.handles(row)[1]);
    const decode = () =>
      device.run({
        phase: "decode",
        rows: handles.map((kv, i) => ({ kv, tokens: [i] })),
        states: handles.map((kv) => ({ kv, position: kv.positions })),
        head,
      });
    await decode();
    const [before, allocated] = [{ ...device.traffic }, device.allocated];
    for (let step = 0; step < 10; step++) await decode();
    const bytes = (device.traffic.upBytes + device.traffic.downBytes - before.upBytes - before.downBytes) / 10;
    expect(bytes).toBeLessThanOrEqual(64_000);
    expect(device.allocated).toEqual(allocated);
    twins.close(...rows);
  });

  test("the engine gives the CPU's tokens to 300 sequences, and leaves no row and no block", async () => {
    const { kv } = device;
    const besideRows = () => device.allocated.bytes - kv.bytes;
    const [idleBytes, idleBuffers] = [besideRows(), device.allocated.buffers];
    expect(kv.usedBytes).toBe(0);
    const { layers, kvHeads, headWidth, hiddenSize } = model.config;
    const positionBytes = (format === "fp16" ? 2 : 4) * 2 * layers * kvHeads * headWidth + 4 * hiddenSize;
    const prompts = Array.from({ length: 300 }, (_, i) => twins.ids(1 + ((i * 7) % 50)));
    const shared = Array.from({ length: 30 }, () => twins.ids(64));
    const generate = async (runner: Runner) => {
      const harness = createEngineHarness({ runner, prefixBytes: 400 * positionBytes, limits: { maxSequences: 20 } });
      let most = 0;
      for (const [i, prompt] of prompts.entries()) {
        const ids = i % 5 === 0 ? [...shared[Math.floor(i / 10)], ...prompt] : prompt;
        const request = sequenceRequest(`s${i}`, ids, { tenant: `t${i % 5}`, maxTokens: 1 + (i % 6) });
        await harness.engine.submit(["c0", "c1", null][i % 3], [request]);
        if (harness.engine.busy) await harness.engine.step();
        most = Math.max(most, besideRows());
        expect(kv.bytes).toBeLessThanOrEqual(kv.capacityBytes);
      }
      await harness.finish();
      return { tokens: prompts.map((_, i) => harness.tokensOf(`s${i}`)), most, blocks: harness.engine.stats.prefixes! };
    };
    const expected = await generate(onCpu);
    const { tokens, most, blocks } = await generate(device);
    // float16 may choose the other of two tokens that are about equally likely, and then continues another text.
    const same = tokens.filter((own, i) => `${own}` === `${expected.tokens[i]}`).length;
    expect(same).toBeGreaterThanOrEqual(format === "fp16" ? 250 : 300);
    expect(blocks.reusedTokens).toBeGreaterThan(64);
    expect(blocks.evictions).toBeGreaterThan(10);
    expect(kv.usedBytes).toBe(0);
    // Blocks of the prefix cache are all that is left, and all that came beside the rows.
    await kv.settled();
    expect(device.allocated.buffers).toBe(idleBuffers + blocks.blocks * (2 * layers + 1));
    expect(most).toBeLessThanOrEqual(idleBytes + 500 * positionBytes);
  }, 120_000);
});

describe.skipIf(failure)("on WebGPU", () => {
  const tolerance = float32Tolerance;

  test.each([
    { format: "fp32", tolerance: float32Tolerance, nats: 0.0005 },
    { format: "fp16", tolerance: 1, nats: 0.01 },
    { format: "exact", tolerance: 0.001, nats: 0.0005 },
  ] as const)(
    "the embedded base in $format decodes as the CPU, with its cross-entropy",
    async (expected) => {
      const { format } = expected;
      const { model: base, hyperNetwork } = await readArtifacts(embeddedBase);
      // A software adapter takes seconds for a pass of this base.
      const config = { ...base.config, contextTokens: 64 };
      const model = { config, weights: base.weights, bank: bankOf(hyperNetwork) };
      const device = await openDeviceRunner({ ...model, format }, { ...limits, maxSequences: 2 });
      const runners = [await openHostRunner(model), device];
      base.close();
      const twins = new Twins({ random: seededRandom(seed), tolerance: expected.tolerance }, ...runners);
      const rows = [twins.open(), twins.open()];
      const losses = [0, 0];
      for (const [i, row] of rows.entries()) {
        const ids = reference.texts[i].ids.slice(0, 49);
        const states = ids.slice(1).map((_, position): [number, number] => [row, position]);
        const head = { ...twins.head(48), targetIds: Int32Array.from(ids.slice(1)), bias: noChanges };
        const gates = new Float32Array(head.gates.length);
        const difference = await twins.run("prefill", new Map([[row, ids.slice(0, -1)]]), states, { ...head, gates });
        expect(difference).toBeLessThan(expected.tolerance);
        for (const [r, { logSumExp, targetScores }] of twins.outputs.entries()) {
          logSumExp.forEach((total, t) => {
            losses[r] += (total - targetScores[t]) / (48 * rows.length);
          });
        }
      }
      console.log(`${format}: a cross-entropy of ${losses[1]} nats a token, and of ${losses[0]} on the CPU in fp32`);
      expect(Math.abs(losses[1] - losses[0])).toBeLessThan(expected.nats);
      expect(await twins.decode(rows)).toBeLessThan(expected.tolerance);
      for (const runner of runners) await runner.release();
    },
    600_000,
  );

  test("a row that becomes NaN is told, and leaves nothing that changes later rows in its place", async () => {
    const random = seededRandom(seed);
    // Its head is not the embedding, so that a token can have an embedding of NaN without making a logit NaN.
    const config = tinyFamilies["Llama 3.1"];
    const weights = new Map(randomWeights(config, random, 0.25));
    const nanId = 5;
    const name = "model.embed_tokens.weight";
    const embedding = floatsOf(weights.get(name)!).slice();
    embedding.fill(Number.NaN, nanId * config.hiddenSize, (nanId + 1) * config.hiddenSize);
    weights.set(name, tensorFrom(embedding, [config.vocabularySize, config.hiddenSize]));
    const model = { config, weights, bank: randomBank(config, 12, 3, random) };
    const runners = [await openHostRunner(model), await openDeviceRunner(model, { ...limits, maxSequences: 4 })];
    const twins = new Twins({ random, tolerance }, ...runners);
    const lost = [twins.open(), twins.open()];
    const none = { bias: noChanges, want: { scores: false, hidden: false } };
    for (const row of lost) {
      await twins.prefill(
        row,
        twins.ids(20).map((id) => (id === nanId ? 6 : id)),
      );
    }
    await twins.run("prefill", new Map([[lost[0], [6, nanId, 7]]]), [], twins.head(0, none));
    await twins.run("decode", new Map([[lost[1], [nanId]]]), [], twins.head(0, none));
    twins.close(...lost);
    // In a pass with a longer row, attention also reads a shorter row's positions past its end.
    const rows = [60, 3, 5].map((length) => ({ row: twins.open(), ids: Array.from({ length }, (_, t) => 6 + t) }));
    for (const { row, ids } of rows.toReversed()) expect(await twins.prefill(row, ids)).toBeLessThan(tolerance);
    const next = new Map(rows.map(({ row }) => [row, [9]]));
    const states = rows.map(({ row }): [number, number] => [row, twins.positions(row)]);
    expect(await twins.run("decode", next, states, twins.head(3))).toBeLessThan(tolerance);
    for (const runner of runners) await runner.release();
  });

  test("a graph with a node that has no kernel is refused by the node's name", async () => {
    const g = new GraphBuilder("inexact");
    const isInfinite = g.node("IsInf", [g.input("x", "float32", ["n"])]);
    g.output("y", g.node("Where", [isInfinite, g.scalar(0), g.scalar(1)]), "float32", ["n"]);
    const memory = await DeviceMemory.open(1);
    await expect(memory.session(g.bytes())).rejects.toThrow(/no kernel for IsInf \(IsInf_\d+\)/);
    await memory.release();
  });
});

test("no output of a device's graph is a view, which a replayed graph would not renew", async () => {
  const { config, weights, bank } = await modelOf("GPT-2");
  const head = { bank, hasOwn: true, format: "fp32" } as const;
  const onnx = await protobuf.load(fileURLToPath(new URL("../../gpu-backend/runtime/onnx.proto", import.meta.url)));
  for (const bytes of [
    buildDeviceTrunk(config, weights, "fp32"),
    buildDeviceHead(config, weights, head),
    buildCopy(2),
    buildRead(),
  ]) {
    const { graph } = onnx.lookupType("onnx.ModelProto").decode(bytes).toJSON();
    for (const { name } of graph.output) {
      const maker = graph.node.find(({ output }: { output: string[] }) => output.includes(name));
      expect(maker.opType).toBeTruthy();
      expect(maker.opType).not.toMatch(/^(Reshape|Squeeze|Unsqueeze|Flatten|Identity)$/);
    }
  }
});
