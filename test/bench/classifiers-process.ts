/**
 * One side of the comparison of classifiers: one engine with every tenant's adapter, or a session for each adapter.
 * Run by classifiers.ts: node classifiers-process.ts SETTINGS
 */
import { availableMemory } from "node:process";
import { AdapterCache } from "../../gpu-backend/adapters/generated/adapter-cache.ts";
import { generatedAdapters } from "../../gpu-backend/adapters/generated/generated.ts";
import { ownAdapterId, packOwnAdapter, withOwnAdapters } from "../../gpu-backend/adapters/own/artifact.ts";
import { chunkTokens } from "../../gpu-backend/config.ts";
import { artifactsOf } from "../../gpu-backend/engine/artifacts.ts";
import { Engine } from "../../gpu-backend/engine/engine.ts";
import { openModel } from "../../gpu-backend/engine/open-model.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import type { Frame } from "../../shared/contracts/inference.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { seededRandom } from "../support/steps.ts";
import { answerQuestions } from "./asked-process.ts";
import { promptsOf } from "./model.ts";

interface ClassifierSettings {
  isTogether: boolean;
  adapters: number;
  threads: number;
  dataDirectory: string;
}

export interface Answered {
  ms: number;
  answers: string[];
}

const promptTokens = 64;
const labels = [314, 1592, 6535, 26535];
/** Memory for other processes. No further session is opened when less is available. */
const reservedBytes = 3e9;
/** Adapters with random numbers between ± this value change a state by about the state's own length. */
const spread = 0.05;

const settings = JSON.parse(process.argv[2]) as ClassifierSettings;
const { isTogether, adapters, threads, dataDirectory } = settings;
const prompts = promptsOf(adapters, promptTokens);
let frames: Frame[] = [];
const now = () => performance.now();
const engines: Engine[] = [];
for (let i = 0; i < (isTogether ? 1 : adapters) && (i === 0 || availableMemory() > reservedBytes); i++) {
  engines.push(await openEngine());
  if (!isTogether) await answer([i], 1);
}
if (isTogether) await answer([...prompts.keys()], 1);
/** A question makes each of the first `requests` tenants ask for an answer of `tokens` tokens. */
answerQuestions(
  engines.length,
  async ({ requests, tokens }: { requests: number; tokens: number }): Promise<Answered> => {
    const tenants = Array.from({ length: requests }, (_, i) => i);
    const startedMs = now();
    const answers = await answer(tenants, tokens);
    return { ms: now() - startedMs, answers };
  },
);

async function openEngine(): Promise<Engine> {
  const { runner, manifest, manifestHash, hyperNetwork } = await openModel(
    {
      ...{ modelDirectory: embeddedBase, artifactsDirectory: artifactsOf(embeddedBase), dataDirectory },
      ...{ threads, weightFormat: "int8" },
    },
    now,
  );
  const D = runner.config.hiddenSize;
  const read = async (tenant: string) => {
    const random = seededRandom(Number(tenant));
    const floats = (length: number) => Float32Array.from({ length }, () => spread * (2 * random() - 1));
    return packOwnAdapter({ a: floats(8 * D), b: floats(8 * D), c: floats(D) }, manifestHash);
  };
  const limits = { maxSequences: isTogether ? adapters : 1, maxQueue: adapters, stepTokens: 256, chunkTokens };
  const source = withOwnAdapters(generatedAdapters(manifest, hyperNetwork), { read }, { manifestHash, hiddenSize: D });
  return new Engine({
    runner: new HostRunner(runner, { ...limits, kvBytes: 2 ** 31 }),
    adapters: new AdapterCache(source, now),
    prefixCache: null,
    limits,
    textPieceOf: () => Uint8Array.of(97),
    now,
    emit: (some) => frames.push(...some),
  });
}

async function answer(tenants: readonly number[], tokens: number): Promise<string[]> {
  frames = [];
  for (const i of tenants) {
    const engine = engines[isTogether ? 0 : i];
    const request = sequenceRequest(`r${i}`, prompts[i], {
      ...{ tenant: `${i}`, maxTokens: tokens },
      sampling: { ignore_eos: true, logprobs: labels.length, logit_bias: labels.map((id) => [id, 100]) },
    });
    await engine.submit(ownAdapterId(`${i}`, `${i}`.padStart(64, "0")), [request]);
    if (!isTogether) while (engine.busy) await engine.step();
  }
  if (isTogether) while (engines[0].busy) await engines[0].step();
  return tenants.map((i) => {
    const own = frames.filter(({ id }) => id === `r${i}`);
    const failed = own.find(({ type }) => type === "error");
    if (failed) throw new Error(JSON.stringify(failed));
    return JSON.stringify(own.flatMap((one) => (one.type === "token" ? [[one.tokenId, one.alternatives]] : [])));
  });
}
