/**
 * How a memory changes generated text. For each fresh kind of `eval:own`, 6,000 known tokens become a memory, and prompts of other
 * documents are continued by the base and by `auto` with the memory, through the public API. Prints Markdown. Run: `npm run corpora`, then
 * `npm start` in one terminal and `node test/bench/samples.ts` (`--url`, `--key` for another server of the embedded base).
 */
import { z } from "zod";
import { count, createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import { freshKinds, kindOf, promptTokens } from "../../gpu-backend/research/own/kinds.ts";
import { suggestedTokens } from "../../gpu-backend/research/own/score.ts";
import { averageOf, estimateText, markdownTable, resampled, signed } from "../../gpu-backend/research/statistics.ts";
import { defaultCorpusFolder, lockedSources, readLock } from "../../gpu-backend/training/corpus/lock.ts";
import { readCorpus } from "../../gpu-backend/training/corpus/read-corpus.ts";
import { commandProgress } from "../../gpu-backend/training/progress.ts";
import { Connection, type ConnectionOptions, withConnection } from "../../infra/api/connection.ts";
import { adapterDeletedSchema, adapterSchema } from "../../shared/contracts/responses.ts";
import { embeddedTokenizer } from "./embedded-tokenizer.ts";

const sampling = { temperature: 0.8, seed: 1, max_tokens: 64 };
/** Tokens of the author's text that are compared, and maximum tokens of a greedy answer. */
const comparedTokens = 32;
/** The report shows the first text of each of the first kinds, so that no sample is chosen. */
const shownKinds = 3;

const tokenizer = await embeddedTokenizer();
const answerSchema = z.object({ choices: z.array(z.object({ index: z.int(), text: z.string() })) });

type Ids = readonly number[];
/** What follows each prompt, as token ids, which the tokenizer makes of an answer's characters. */
interface Continuations {
  sampled: Ids[];
  greedy: Ids[];
}
type MeasuredKind = { name: string; prompts: Ids[] } & Record<"author" | "base" | "memory", Continuations>;

const bigramsOf = (ids: Ids) => ids.slice(1).map((id, i) => `${ids[i]} ${id}`);

/** Distinct bigrams divided by all bigrams. A bigram that several groups have is counted in each. */
function distinctShare(groups: readonly string[][]): number {
  const distinct = groups.map((bigrams) => new Set(bigrams).size);
  return averageOf(distinct) / averageOf(groups.map(({ length }) => length));
}

function sharedVocabulary(text: Ids, author: Ids): number {
  const wanted = new Set(author.slice(0, comparedTokens));
  return wanted.intersection(new Set(text)).size / wanted.size;
}

const measures: Record<string, (texts: Continuations, author: Continuations) => number> = {
  "distinct bigrams in a text": ({ sampled }) => distinctShare(sampled.map(bigramsOf)),
  "distinct bigrams in all texts of a kind": ({ sampled }) => distinctShare([sampled.flatMap(bigramsOf)]),
  "author's vocabulary": ({ sampled }, author) =>
    averageOf(sampled.map((ids, i) => sharedVocabulary(ids, author.sampled[i]))),
  "author's leading tokens": ({ greedy }, author) =>
    averageOf(greedy.map((ids, i) => suggestedTokens(author.greedy[i].map((id, at) => Number(id === ids[at]))))),
  "sampled tokens": ({ sampled }) => averageOf(sampled.map(({ length }) => length)),
};

async function continuedBy(connection: Connection, adapter: string, prompt: readonly Ids[]): Promise<Continuations> {
  const ask = async (parameters: object) => {
    const body = { prompt, chameleon: { adapter }, ...parameters };
    const { choices } = await connection.call(answerSchema, "POST", "/v1/completions", body);
    return choices.toSorted((a, b) => a.index - b.index).map(({ text }) => tokenizer.encode(text));
  };
  return { sampled: await ask(sampling), greedy: await ask({ temperature: 0, max_tokens: comparedTokens }) };
}

function report(kinds: readonly MeasuredKind[]): string[] {
  const names = Object.keys(measures);
  const valuesOf = (of: "author" | "base" | "memory", name: string) =>
    kinds.map((kind) => measures[name](kind[of], kind.author));
  const estimate = (values: readonly number[]) =>
    estimateText(resampled((drawn) => averageOf(drawn(values)), averageOf(values)));
  const means = names.map((name) => {
    const [base, memory] = [valuesOf("base", name), valuesOf("memory", name)];
    const gains = memory.map((value, k) => value - base[k]);
    return [name, signed(averageOf(valuesOf("author", name))), ...[base, memory, gains].map(estimate)];
  });
  const rows = kinds.map(({ name: kind }, k) => [
    kind,
    ...names.map((name) => `${signed(valuesOf("base", name)[k])} → ${signed(valuesOf("memory", name)[k])}`),
  ]);
  const cellOf = (text: string) => text.replaceAll(/[\\`*_<|[\]~&]/g, "\\$&").replaceAll(/\s*\n\s*/g, " ¶ ");
  const samples = kinds.slice(0, shownKinds).map(({ name, prompts, author, base, memory }) => {
    const texts = [prompts[0].slice(-comparedTokens), ...[author, base, memory].map(({ sampled }) => sampled[0])];
    return [name, ...texts.map((ids) => cellOf(tokenizer.decode(ids)))];
  });
  return [
    `Prompts of ${promptTokens} tokens; ${JSON.stringify(sampling)}; greedily ${comparedTokens} tokens.`,
    markdownTable(["mean over kinds", "author", "base", "with memory", "difference"], means),
    markdownTable(["kind, base → with memory", ...names], rows),
    markdownTable(["kind", "end of the prompt", "author", "base", "with memory"], samples),
  ];
}

async function measure({ texts: maxTexts, ...options }: ConnectionOptions & { texts: number }): Promise<void> {
  const connection = new Connection(options);
  const { lock } = await readLock();
  const wanted = freshKinds(lock.corpora).flatMap((name) => lock.corpora.filter((corpus) => corpus.name === name));
  const progress = commandProgress();
  progress.stage("kinds", wanted.length);
  const kinds: MeasuredKind[] = [];
  for (const source of lockedSources(wanted, defaultCorpusFolder)) {
    const { name, documents } = await readCorpus(source);
    const { known, texts } = kindOf("fresh", name, documents, { isTrained: false, tokenizer, texts: maxTexts });
    const prompts = texts.map(({ ids }) => ids.slice(0, promptTokens));
    const following = texts.map(({ ids }) => ids.slice(promptTokens, promptTokens + sampling.max_tokens));
    const author = { sampled: following, greedy: following };
    const adapter = `samples-${name}`;
    const learnt = known.map(({ ids }) => tokenizer.decode(ids));
    await connection.call(adapterSchema, "POST", "/v1/adapters", { name: adapter, documents: learnt });
    try {
      const memory = await continuedBy(connection, adapter, prompts);
      kinds.push({ name, prompts, author, base: await continuedBy(connection, "off", prompts), memory });
    } finally {
      await connection.call(adapterDeletedSchema, "DELETE", `/v1/adapters/${adapter}`);
    }
    progress.advance(kinds.length, name);
  }
  progress.end();
  process.stdout.write(`${report(kinds).join("\n\n")}\n`);
}

const program = createCommand("samples", "Measure how a memory changes text", ["node test/bench/samples.ts"]);
await runCommand(withConnection(program).option("--texts <n>", "of each kind at most", count, 6).action(measure));
