/**
 * Runs inside workerd: does the edge's own work on a request's texts, over and over. The runtime's clock stands still
 * while it computes, so whoever asks holds the watch.
 */
import { type Artifacts, loadArtifacts } from "../../../edge/artifacts/artifacts.ts";
import { assign } from "../../../edge/plan/assign.ts";
import { encodePrompts } from "../../../edge/plan/encode.ts";
import { createSigner } from "../../../shared/contracts/call-signature.ts";
import { loadOnce } from "../../support/load-once.ts";

/** `repeats` times over all texts; 0 measures the way there and back. */
export interface CpuTask {
  texts: string[];
  repeats: number;
  /** "sign": a call to a backend, `texts` being its body. */
  work: "tokenize" | "assign" | "both" | "sign";
}

interface Env {
  ASSETS: { fetch(url: string): Promise<Response> };
}

const sign = createSigner(["s".repeat(32)], () => 0);
let load: (() => Promise<Artifacts>) | null = null;

const bound = {
  param: "prompt",
  single: "The prompt",
  maxTokens: Number.POSITIVE_INFINITY,
  begin: [],
  limitText: null,
};

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    load ??= loadOnce(() =>
      loadArtifacts(async (name) => {
        const response = await env.ASSETS.fetch(`https://assets/artifacts/${name}`);
        return new Uint8Array(await response.arrayBuffer());
      }),
    );
    const artifacts = await load();
    const { texts, repeats, work } = (await request.json()) as CpuTask;
    if (work === "sign") {
      const body = new TextEncoder().encode(texts.join(""));
      for (let i = 0; i < repeats; i++) await sign("POST", "/v1/batches", body);
      return Response.json({ bytes: body.byteLength });
    }
    const encoded = encodePrompts(texts, artifacts, bound);
    let centroids = 0;
    for (let i = 0; i < repeats; i++) {
      const ids = work === "assign" ? encoded : encodePrompts(texts, artifacts, bound);
      if (work !== "tokenize") for (const one of ids) centroids += assign(one, "auto", artifacts).centroid.id.length;
    }
    return Response.json({ centroids, tokens: encoded.map((ids) => ids.length) });
  },
};
