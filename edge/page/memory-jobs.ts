/** Uploads documents and waits until answers read them. */
import type { Adapter } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure } from "./api.ts";
import type { NamedText } from "./documents.ts";

/** Interval at which the state of the upload's job is polled, in milliseconds. */
const lookMs = 400;

export interface Upload {
  name: string;
  documents: readonly NamedText[];
  signal: AbortSignal;
  onProgress(builtTokens: number, tokens: number): void;
}

export const pathOf = (name: string) => `/v1/adapters/${encodeURIComponent(name)}`;

/**
 * Makes an adapter of documents, and resolves once answers read them. Throws CallFailure. Once `signal` aborts, deletes the adapter and
 * throws an AbortError.
 */
export async function upload(api: Api, { name, documents, signal, onProgress }: Upload) {
  let adapter = await api.json<Adapter>("/v1/adapters", { name, documents }, { signal });
  try {
    for (;;) {
      const { status, error, built_tokens, tokens } = adapter.memory!;
      if (status === "ready") return adapter;
      if (status === "failed") throw new CallFailure(`The server could not read the documents: ${error}`);
      onProgress(built_tokens, tokens);
      await new Promise((resolve) => setTimeout(resolve, lookMs));
      signal.throwIfAborted();
      adapter = await api.json<Adapter>(pathOf(name), undefined, { signal });
    }
  } catch (error) {
    if (signal.aborted) await api.json(pathOf(name), undefined, { method: "DELETE" });
    throw error;
  }
}
