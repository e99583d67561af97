/**
 * What a burst costs another tenant in the engine alone, without edge and HTTP: how many steps its sequences wait for a slot,
 * and how long its tokens take, while the queue is full of one tenant's sequences. The engine is the real one, in its process.
 */
import { tmpdir } from "node:os";
import { chunkTokens, readConfig } from "../../../gpu-backend/config.ts";
import { artifactsOf } from "../../../gpu-backend/engine/artifacts.ts";
import { EngineClient } from "../../../gpu-backend/host/client.ts";
import type { Frame } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/engine-harness.ts";
import { seededRandom } from "../../support/steps.ts";
import { quantile } from "../quantile.ts";

const seed = 20_261_126;
const kvBytes = 2 ** 30;
const promptTokens = { quiet: 24, burst: 60 };
/** Of the embedded model: ids that are bytes or words, never the end of text. */
const ids = 4000;

export interface EngineLoad {
  burst: number;
  tokens: number;
  /** Of the quiet tenant, in each phase. */
  requests: number;
  lanes: number;
  threads: number;
}

export interface EngineFigures {
  phase: "alone" | "beside a burst";
  requests: number;
  /** Steps that ended between submission and the first token; the step that makes it is not one of them. */
  waitedStepsP50: number;
  waitedStepsP99: number;
  /** Milliseconds of a completion for each token after its first. */
  tokenMsP50: number;
  tokenMsP99: number;
  /** Sequences of a decode step. */
  meanSequences: number;
}

/** One answer to the quiet tenant. */
interface Answer {
  waitedSteps: number;
  tokenMs: number;
}

export async function measureEngine(load: EngineLoad): Promise<EngineFigures[]> {
  const config = readConfig({ THREADS: `${load.threads}` });
  const { maxSequences, maxQueue, stepTokens, modelDirectory } = config;
  const decoded = { steps: 0, sequences: 0 };
  const engine = new EngineClient(
    {
      ...config,
      kvBytes,
      artifactsDirectory: artifactsOf(modelDirectory),
      dataDirectory: tmpdir(),
      limits: { maxSequences, maxQueue, stepTokens, chunkTokens },
    },
    {
      now: () => performance.now(),
      stallMs: config.stallMs,
      environment: {},
      observer: {
        phaseRan({ phase, sequences }) {
          if (phase !== "decode") return;
          decoded.steps++;
          decoded.sequences += sequences;
        },
        statsChanged() {},
        tokenArrived() {},
        sequenceEnded() {},
        sequenceFaulted() {},
        engineReady() {},
        engineFailed({ how }) {
          throw new Error(`the engine ${how}`);
        },
      },
    },
  );
  const { manifestHash } = await engine.ready;
  const random = seededRandom(seed);
  let number = 0;
  const submit = (tenant: "quiet" | "burst", count: number, sink: (frames: Frame[]) => void) => {
    const sequences = Array.from({ length: count }, () => {
      const prompt = Array.from({ length: promptTokens[tenant] }, () => Math.floor(random() * ids));
      const sampling = { ignore_eos: true };
      return sequenceRequest(`${tenant}-${number++}`, prompt, { tenant, maxTokens: load.tokens, sampling });
    });
    engine.submit({ version: 1, manifestHash, centroidId: null, sequences }, sink);
  };
  const ask = () =>
    new Promise<Answer>((resolve, reject) => {
      const from = decoded.steps;
      let first: { ms: number; waitedSteps: number } | null = null;
      submit("quiet", 1, (frames) => {
        for (const frame of frames) {
          const nowMs = performance.now();
          if (frame.type === "error") reject(new Error(frame.message));
          else if (frame.type === "token") first ??= { ms: nowMs, waitedSteps: decoded.steps - from };
          else if (frame.type === "done" && first) {
            resolve({ waitedSteps: first.waitedSteps, tokenMs: (nowMs - first.ms) / (load.tokens - 1) });
          }
        }
      });
    });
  const lane = async (answers: Answer[]) => {
    while (answers.length < load.requests) answers.push(await ask());
  };
  const measure = async (phase: EngineFigures["phase"]): Promise<EngineFigures> => {
    const before = { ...decoded };
    const answers: Answer[] = [];
    await Promise.all(Array.from({ length: load.lanes }, () => lane(answers)));
    const waited = answers.map(({ waitedSteps }) => waitedSteps);
    const tokens = answers.map(({ tokenMs }) => tokenMs);
    return {
      ...{ phase, requests: answers.length },
      ...{ waitedStepsP50: quantile(waited, 0.5), waitedStepsP99: quantile(waited, 0.99) },
      ...{ tokenMsP50: quantile(tokens, 0.5), tokenMsP99: quantile(tokens, 0.99) },
      meanSequences: (decoded.sequences - before.sequences) / (decoded.steps - before.steps),
    };
  };
  let isBursting = true;
  let open = 0;
  /** The whole burst at once, and again before what was let in is done: the tenant's queue never runs empty. */
  const burst = () => {
    if (!isBursting) return;
    open += load.burst;
    submit("burst", load.burst, (frames) => {
      for (const { type } of frames) if (type === "done" || type === "error") open--;
      if (open < 3 * maxSequences) burst();
    });
  };
  try {
    await Promise.all(Array.from({ length: load.lanes }, ask)); // warm
    const alone = await measure("alone");
    const isFull = Promise.withResolvers<void>();
    const watch = setInterval(() => {
      if ((engine.stats?.waiting ?? 0) >= maxSequences) isFull.resolve();
    }, 5);
    burst();
    await isFull.promise;
    clearInterval(watch);
    return [alone, await measure("beside a burst")];
  } finally {
    isBursting = false;
    await engine.close(0);
  }
}

/** `targetSteps`: more at p99 loses. */
export function engineLines(
  [alone, beside]: readonly EngineFigures[],
  targetSteps: number,
): { line: string; isOver: boolean }[] {
  const lines = [alone, beside].map((row) => ({
    isOver: false,
    line: `engine, quiet tenant ${row.phase}: waited p50 ${row.waitedStepsP50} p99 ${row.waitedStepsP99} steps, a token p50 ${row.tokenMsP50.toFixed(1)} p99 ${row.tokenMsP99.toFixed(1)} ms, ${row.meanSequences.toFixed(1)} sequences a step (${row.requests} completions)`,
  }));
  const isOver = beside.waitedStepsP99 > targetSteps;
  const cost = (beside.tokenMsP50 / alone.tokenMsP50).toFixed(2);
  lines.push({
    isOver,
    line: `${isOver ? "LOSES  " : ""}engine: waited ${beside.waitedStepsP99} steps at p99 beside a burst (target ${targetSteps}); a token costs ${cost}x`,
  });
  return lines;
}
