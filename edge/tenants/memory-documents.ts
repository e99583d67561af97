/** Documents of a memory, and the body of the call that sends them to a backend. Pure. */
import { contractVersion } from "../../shared/contracts/inference.ts";
import { gunzippedText } from "./sealed-store.ts";

export interface DocumentRecord {
  name: string;
  tokens: number;
  bytes: number;
  /** Sum of the prompt embeddings of the document's windows: float32 in base64. */
  embedding: string;
}

export interface NewDocument {
  name: string | null;
  text: string;
  tokens: number;
  embedding: string;
}

/** `texts`: the documents' gzipped JSON. Throws an Error if `texts` is null. */
export async function memoryBody(manifestHash: string, texts: Uint8Array | null): Promise<Uint8Array> {
  if (texts === null) throw new Error("the documents are gone");
  const head = JSON.stringify({ version: contractVersion, manifestHash }).slice(0, -1);
  return new TextEncoder().encode(`${head},"documents":${await gunzippedText(texts)}}`);
}

/** The first free name, such as "text-7". Not a number alone, because a JSON body with many strings of digits is refused. */
export function firstFree(names: ReadonlySet<string>): string {
  let number = names.size + 1;
  while (names.has(`text-${number}`)) number++;
  return `text-${number}`;
}

/** The sum of the documents' embeddings, scaled to length 1: their mean, weighed by the number of windows. */
export function centroidOf(records: readonly DocumentRecord[]): number[] {
  const vectors = records.map(({ embedding }) => new Float32Array(Uint8Array.fromBase64(embedding).buffer));
  const sum = Float64Array.from(vectors[0], (_, p) => vectors.reduce((total, vector) => total + vector[p], 0));
  const length = Math.hypot(...sum);
  return [...sum].map((value) => (length > 0 ? value / length : 0));
}
