/** The page's calls: a stream is read however its bytes are cut. */
import type { ServerResponse } from "node:http";
import { expect, test } from "vitest";
import { Api } from "../../../../edge/page/api.ts";
import { Catalog } from "../../../../edge/page/catalog.ts";
import { serve } from "../../../support/loopback.ts";

/** How the server answers the next request. */
let answer: (response: ServerResponse) => void;
const origin = await serve((_, response) => answer(response));

const api = () => new Api(origin, () => "sk-test");
const refusal = (status: number, code: string, message: string) => (response: ServerResponse) => {
  const error = { message, type: "", param: null, code };
  response.writeHead(status, { "retry-after": "2" }).end(JSON.stringify({ error }));
};

async function chunksOf(...writes: string[]): Promise<unknown[]> {
  answer = (response) => {
    const next = (i: number): unknown =>
      i < writes.length ? response.write(writes[i], () => next(i + 1)) : response.end();
    next(0);
  };
  const chunks: unknown[] = [];
  for await (const chunk of api().chunks("/stream", {}, new AbortController().signal)) chunks.push(chunk);
  return chunks;
}

test("a stream is the same however it is cut, its heartbeats left out", async () => {
  const text = `: hb\n\ndata: {"a":"é\\n\\n"}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n`;
  const wanted = [{ a: "é\n\n" }, { a: 2 }];
  expect(await chunksOf(text)).toEqual(wanted);
  expect(await chunksOf(...text)).toEqual(wanted);
});

test("a stream that is cut short is a failure, and so is an error in it", async () => {
  await expect(chunksOf(`data: {"a":1}\n\n`)).rejects.toThrow(/broke off. What came before is kept/);
  const error = { error: { message: "The backend failed.", type: "server_error", param: null, code: null } };
  await expect(chunksOf(`data: ${JSON.stringify(error)}\n\ndata: [DONE]\n\n`)).rejects.toThrow(
    "The answer broke off: The backend failed.",
  );
});

test("a key that no header can carry is refused before anything is sent, and the character is named", async () => {
  const call = (key: string) => new Api("http://127.0.0.1:1", () => key).json("/");
  await expect(call("sk-\u200bkey")).rejects.toThrow(/character 4 of the API key, U\+200B.*no header can carry/i);
  await expect(call("sk-key one")).rejects.toThrow(/character 7 of the API key, U\+0020/i);
  await expect(call("sk-kéy")).rejects.toThrow(/character 5 of the API key, U\+00E9/i);
  await expect(call("sk-key~!")).rejects.toThrow(/does not answer/);
});

test("a key without the scope for adapters sees the centroids nevertheless", async () => {
  const centroid = { id: "c0", model: "gpt2:c0", label: ["a"], auto_off: false };
  const catalog = new Catalog({
    async json<T>(path: string): Promise<T> {
      if (path === "/v1/centroids") return { data: [centroid] } as T;
      answer = refusal(403, "insufficient_permissions", "This key may not.");
      return api().json<T>(path);
    },
  });
  await catalog.load();
  expect(catalog.baseModel).toBe("gpt2");
  expect(["c0", "base", "static", "mine"].map((id) => catalog.nameOf(id))).toEqual(["a", "Base", "Every text", "mine"]);
  expect(catalog.nameOf("constructor")).toBe("constructor");
  expect(catalog.adapters).toEqual([]);
});
