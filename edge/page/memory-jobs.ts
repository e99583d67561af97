/** Uploads of documents, and waiting until what was uploaded counts. */
import type { Adapter } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure } from "./api.ts";
import type { NamedText } from "./documents.ts";

/** Time between two looks at a job, in milliseconds. */
const lookMs = 400;

export interface Upload {
  name: string;
  documents: readonly NamedText[];
  /** They are added to an adapter that is there already. */
  isAddition?: boolean;
  signal: AbortSignal;
  onProgress(builtTokens: number, tokens: number): void;
}

export const pathOf = (name: string) => `/v1/adapters/${encodeURIComponent(name)}`;

/**
 * Makes an adapter of documents, or adds some to one, and resolves once answers read them. Throws CallFailure, or an AbortError once
 * `signal` aborts; a new adapter is then deleted.
 */
export async function upload(api: Api, { name, documents, isAddition = false, signal, onProgress }: Upload) {
  const path = isAddition ? `${pathOf(name)}/documents` : "/v1/adapters";
  let adapter = await api.json<Adapter>(path, isAddition ? { documents } : { name, documents }, { signal });
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
    if (signal.aborted && !isAddition) await api.json(pathOf(name), undefined, { method: "DELETE" });
    throw error;
  }
}
