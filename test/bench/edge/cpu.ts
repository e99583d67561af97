/** CPU time of tokenizing, embedding and assigning inside workerd. The time is the difference between many repeats and none. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { loadArtifacts } from "../../../edge/artifacts/artifacts.ts";
import { prepareBareEdge } from "../../../infra/workerd/edge.ts";
import type { Manifest } from "../../../shared/artifacts/manifest.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { root } from "../../support/project.ts";
import { median } from "../quantile.ts";
import type { CpuTask } from "./cpu-worker.ts";
import { benchTexts } from "./texts.ts";

export type CpuRow = Awaited<ReturnType<typeof measureTokens>>;

const tokenCounts = [100, 1000];
const textCount = 20;
const rounds = 9;
/** Time of one measurement's repeats, beside which the round trip to the Worker is short. */
const spanMs = 200;

async function spentMs(url: string, task: CpuTask): Promise<number> {
  const started = performance.now();
  const response = await fetch(url, { method: "POST", body: JSON.stringify(task) });
  await response.json();
  return performance.now() - started;
}

export async function measureCpu(): Promise<CpuRow[]> {
  const assets = path.join(root, "edge/public");
  const edge = await prepareBareEdge(path.join(import.meta.dirname, "cpu-worker.toml"));
  try {
    const { manifest, tokenizer } = await loadArtifacts((name) => readFile(path.join(assets, "artifacts", name)));
    const workerd = await edge.start({ assets });
    try {
      const rows: CpuRow[] = [];
      for (const tokens of tokenCounts) rows.push(await measureTokens(workerd.url, tokenizer, tokens, manifest));
      return rows;
    } finally {
      await workerd.stop();
    }
  } finally {
    edge.remove();
  }
}

async function measureTokens(url: string, tokenizer: Tokenizer, tokens: number, manifest: Manifest) {
  const texts = benchTexts(tokenizer, tokens, textCount);
  const spent = (work: CpuTask["work"], repeats: number) => spentMs(url, { texts, repeats, work });
  const perText = async (work: CpuTask["work"]) => {
    const trial = await spent(work, 20);
    const repeats = Math.max(10, Math.ceil((spanMs * 20) / trial));
    const samples: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const nothing = await spent(work, 0);
      samples.push(((await spent(work, repeats)) - nothing) / (repeats * textCount));
    }
    return median(samples);
  };
  await spent("both", 50); // compiles the measured code
  return {
    kind: "cpu" as const,
    vocabulary: manifest.model.vocabularySize,
    centroids: manifest.centroids.length,
    tokens,
    tokenizeMs: await perText("tokenize"),
    assignMs: await perText("assign"),
    bothMs: await perText("both"),
  };
}
