/**
 * Attack: sequences that cannot be computed, and a tenant that fills the engine. Judged by whether processes stay alive, by the caller's
 * error, by whether others' texts stay the same, and by how many engine steps another tenant's short prompt waits.
 */
import { describe, expect, test } from "vitest";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { atEnd } from "../support/at-end.ts";
import type { Backend } from "../support/backend-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyConfig, writeTinyModel } from "../support/tiny-model.ts";
import { type AttackedEdge, startAttacked, startAttackedBackend, startAttackedEdge } from "./edge.ts";
import { median } from "./measurements.ts";

const patience = { timeout: 30_000, interval: 20 };
const tenants = { attacker: {}, quiet: {} };

function livingOf(backends: readonly Backend[]): number {
  return backends.filter(({ child }) => child.exitCode === null && child.signalCode === null).length;
}

/** Number of sequences that ended in an error, on all backends. */
async function failedSequences(backends: readonly Backend[]): Promise<number> {
  const texts = await Promise.all(backends.map(async ({ url }) => (await fetch(`${url}/metrics`)).text()));
  const ended = texts.flatMap((text) => [...text.matchAll(/^chameleon_sequences_total\{outcome="(\w+)"\} (\d+)$/gm)]);
  return ended.reduce((sum, [, outcome, n]) => sum + (/^(stop|length|cancelled)$/.test(outcome) ? 0 : Number(n)), 0);
}

test("a prompt with NaN logits ends in one error; texts of others do not change, and no process ends", async () => {
  const model = temporaryFolder();
  const brokenPosition = 300;
  await writeTinyModel(model, 7, { brokenPosition });
  const environments = [0, 1].map(() => ({ MODEL_DIR: model, DATA_DIR: temporaryFolder() }));
  const backends = await Promise.all(environments.map(startAttackedBackend));
  const urls = backends.map(({ url }) => url);
  const edge = await startAttackedEdge(urls, tenants, model);
  const logit_bias = { [tinyConfig.stopIds[0]]: -100 };
  const other = { prompt: [5, 6, 7], n: 4, max_tokens: 200, temperature: 1, seed: 3, logit_bias };
  const textsOf = async () => {
    const { choices } = await edge.ask<CompletionResponse>("/v1/completions", "quiet", other);
    return choices.map((choice) => choice.text);
  };
  const alone = await textsOf();

  const beside = Promise.all(Array.from({ length: 6 }, textsOf));
  const broken = { prompt: Array(brokenPosition + 50).fill(9), max_tokens: 4 };
  for (const stream of [false, true]) {
    const response = await edge.post("/v1/completions", "attacker", { ...broken, stream });
    const text = await response.text();
    console.log(`${response.status} ${text.slice(0, 200)}`);
    // The stream's head, with status 200, may precede the error.
    expect(stream ? [200, 500] : [500]).toContain(response.status);
    expect(response.headers.get("retry-after")).toBeNull();
    expect(text).toMatch(/"error":\{"message"/);
    expect(livingOf(backends)).toBe(2);
  }
  for (const texts of await beside) expect(texts).toEqual(alone);
  expect(livingOf(backends)).toBe(2);
  // One failed sequence for each request shows that none was sent to the other backend.
  expect(await failedSequences(backends)).toBe(2);
});

describe("a tenant's short prompt", () => {
  const probes = 8;
  /** Upper bound of the median wait in mean steps. It allows for the prompt's own chunk, two more steps, and one slower than the mean. */
  const mostSteps = 5;
  let backend: Backend;
  let edge: AttackedEdge;

  /** The number of decode steps since the engine's start, and the seconds that all its phases have taken. */
  async function engineTime(): Promise<{ steps: number; seconds: number }> {
    const text = await (await fetch(`${backend.url}/metrics`)).text();
    const of = (name: string) =>
      [...text.matchAll(new RegExp(`^chameleon_phase_duration_seconds_${name}\\{phase="(\\w+)"\\} (.*)$`, "gm"))].map(
        ([, phase, value]) => [phase, Number(value)] as const,
      );
    const seconds = of("sum").reduce((sum, [, value]) => sum + value, 0);
    return { steps: of("count").find(([phase]) => phase === "decode")?.[1] ?? 0, seconds };
  }

  /** Sends at least `least` short prompts one by one, until `isOver()`. Returns each prompt's wait, divided by the mean time of a step. */
  async function stepsWaited(least: number, isOver: () => boolean): Promise<number[]> {
    const before = await engineTime();
    const waitsMs: number[] = [];
    while (waitsMs.length < least || !isOver()) {
      const short = { prompt: [5, 6, 7], max_tokens: 1, chameleon: {} };
      const { choices } = await edge.ask<CompletionResponse>("/v1/completions", "quiet", short);
      const { queue, prefill } = choices[0].chameleon!.timings!;
      waitsMs.push(queue + prefill);
    }
    const after = await engineTime();
    const stepMs = (1000 * (after.seconds - before.seconds)) / (after.steps - before.steps);
    return waitsMs.map((waitMs) => waitMs / stepMs);
  }

  /** Runs streams of the quiet tenant until the test ends. */
  function decoding(streams: number): void {
    const controller = new AbortController();
    const lane = async () => {
      while (!controller.signal.aborted) {
        const body = { prompt: "Once", n: streams, max_tokens: 400, stream: true };
        const response = await edge.post("/v1/completions", "quiet", body);
        const text = await response.text();
        expect(response.status, text).toBe(200);
      }
    };
    const done = lane().catch(() => undefined);
    atEnd(() => {
      controller.abort();
      return done;
    });
  }

  const attacks: [name: string, streams: number, attack: (i: number) => Promise<unknown>][] = [
    [
      "an adapter made of 64 examples",
      8,
      async (i) => {
        const examples = Array.from({ length: 64 }, (_, k) => `${k} ${"of the park and the house ".repeat(15)}`);
        await edge.ask("/v1/adapters", "attacker", { name: `mine-${i}`, examples }, 201);
      },
    ],
    [
      "64 long prompts",
      16,
      () =>
        Promise.all(
          Array.from({ length: 64 }, (_, k) => {
            const prompt = Array.from({ length: 400 }, (_, t) => 300 + ((7 * k + 13 * t) % 3000));
            return edge.ask("/v1/completions", "attacker", { prompt, max_tokens: 1 });
          }),
        ),
    ],
  ];
  test.each(attacks)(`waits fewer than ${mostSteps} mean steps beside %s`, async (name, streams, attack) => {
    ({ backend, edge } = await startAttacked(tenants, { DATA_DIR: temporaryFolder() }));
    decoding(streams);
    await expect.poll(() => backend.metric("vllm:num_requests_running"), patience).toBe(streams);
    const alone = await stepsWaited(3, () => true);
    let [ended, isMeasured] = [0, false];
    // One attack may end before enough prompts are measured, so attacks follow each other.
    const attacking = (async () => {
      for (; !isMeasured; ended++) await attack(ended);
    })();
    const measuring = stepsWaited(probes, () => ended > 0).finally(() => {
      isMeasured = true;
    });
    const [beside] = await Promise.all([measuring, attacking]);
    const shown = (steps: number[]) => `${median(steps).toFixed(1)} (at most ${Math.max(...steps).toFixed(1)})`;
    console.log(
      `beside ${name} and ${streams} streams: ${shown(beside)} steps to the first token, alone ${shown(alone)}; ${ended} attacks`,
    );
    expect(median(beside)).toBeLessThan(mostSteps);
  });
});
