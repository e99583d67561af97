/** Starts fake-backend-process.ts. */
import { fork } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { manifestFile, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { firstLine } from "./backend-process.ts";
import { smallArtifacts } from "./small-base.ts";

export interface FakeBackendOptions {
  manifestHash: string;
  /** `firstTokenMs`: time to a sequence's first token. `stepMs`: time between its later tokens. */
  firstTokenMs: number;
  stepMs: number;
  /** The first id is sent as every token. All ids are the token's alternatives. */
  tokenIds: number[];
}

export interface FakeBackendCounts {
  sequences: number;
  /** Sequences that have neither ended nor been cancelled. */
  running: number;
  tokens: number;
}

export interface FakeBackend {
  url: string;
  counts(): Promise<FakeBackendCounts>;
  stop(): Promise<void>;
}

const shortToken = 65;

/** Steps are long enough that 16 streams are no load on the machine. */
export const quickEngine = { firstTokenMs: 5, stepMs: 10 };

/** By default the backend reports the small base's manifest. */
export async function startFakeBackend(options: Partial<FakeBackendOptions> = {}): Promise<FakeBackend> {
  const manifest = await readFile(path.join(smallArtifacts, manifestFile));
  const all: FakeBackendOptions = {
    manifestHash: createHash("sha256").update(manifest).digest("hex"),
    ...{ firstTokenMs: 5, stepMs: 5, tokenIds: [shortToken] },
    ...options,
  };
  const child = fork(path.join(import.meta.dirname, "fake-backend-process.ts"), [JSON.stringify(all)], {
    stdio: ["ignore", "pipe", "inherit", "ipc"],
  });
  const url = await firstLine(child, () => "");
  if (url === null) throw new Error("the fake backend ended before it was ready");
  return {
    url,
    counts: async () => (await (await fetch(`${url}/counts`)).json()) as FakeBackendCounts,
    async stop() {
      const ended = once(child, "close");
      child.kill();
      await ended;
    },
  };
}

/** Tokens of the small base with the most bytes, longest first. */
export async function longestTokens(count: number): Promise<number[]> {
  const tokenizer = Tokenizer.fromTensors(readTensorFile(await readFile(path.join(smallArtifacts, tokenizerFile))));
  const lengths = Array.from({ length: tokenizer.vocabularySize }, (_, id) => tokenizer.pieceOf(id).length);
  const ids = lengths.keys().filter((id) => !tokenizer.isSpecial(id));
  return [...ids].sort((a, b) => lengths[b] - lengths[a]).slice(0, count);
}
