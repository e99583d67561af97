/** The texts that instant adapters and the unigram term are measured on: what comes with packages, and what is named. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { fetchDefaultCorpora } from "../../../gpu-backend/training/corpus/fetch-corpora.ts";
import { type CorpusSource, parseSource, readCorpus } from "../../../gpu-backend/training/corpus/read-corpus.ts";
import type { Progress } from "../../../gpu-backend/training/progress.ts";
import type { Random } from "../../../gpu-backend/training/random.ts";
import type { Manifest } from "../../../shared/artifacts/manifest.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";

const root = fileURLToPath(new URL("../../../", import.meta.url));

export interface Domain {
  name: string;
  /** In the training text of the base or of the bank, as far as the manifest and the command line say. */
  known: boolean;
  documents: number[][];
}

/** Named by the user, or those of packages: books, speeches, documentation, type declarations and programs. */
export async function readDomains(
  sources: { domains: readonly string[]; known: readonly string[] },
  { training }: Manifest,
  tokenizer: Tokenizer,
  progress: Progress,
): Promise<Domain[]> {
  const trainedOn = new Set([
    ...(training?.corpora ?? []).map(({ name }) => name),
    ...sources.known.map((argument) => parseSource(argument).name),
  ]);
  const chosen = [...sources.known, ...sources.domains].map(parseSource);
  if (sources.domains.length === 0) chosen.push(...(await packagedSources(progress)));
  const domains: Domain[] = [];
  for (const source of chosen) {
    const { name, documents } = await readCorpus(source);
    const encoded = documents
      .map(({ text }) => tokenizer.encode(text.slice(0, 20_000)))
      .filter((ids) => ids.length >= 40);
    if (encoded.length < 4)
      throw new Error(`${name} has ${encoded.length} documents of 40 tokens or more, 4 are needed`);
    domains.push({ name, known: trainedOn.has(name), documents: encoded });
  }
  return domains;
}

async function packagedSources(progress: Progress): Promise<CorpusSource[]> {
  const corpora = await fetchDefaultCorpora(progress);
  const more = (name: string, path: string) => ({ name, path, licence: null });
  return [
    ...corpora,
    more("type-declarations", join(root, "node_modules/{hono,zod,commander,prom-client}/**/*.d.ts")),
    more("programs", join(root, "node_modules/{hono,zod,commander,prom-client}/**/*.js")),
  ];
}

/** `count` windows of at most `tokens` of as many documents as there are, each from a random place. */
export function drawWindows(documents: readonly number[][], count: number, tokens: number, random: Random): number[][] {
  const order = random.shuffled([...documents]);
  return Array.from({ length: count }, (_, i) => {
    const ids = order[i % order.length];
    const start = ids.length > tokens ? random.integer(ids.length - tokens + 1) : 0;
    return ids.slice(start, start + tokens);
  });
}

/** Documents for examples and others to measure on; no document is both. */
export function splitInTwo(documents: readonly number[][], examples: number, random: Random): [number[][], number[][]] {
  const shuffled = random.shuffled([...documents]);
  const cut = Math.min(examples, Math.floor(shuffled.length / 2));
  return [shuffled.slice(0, cut), shuffled.slice(cut)];
}
