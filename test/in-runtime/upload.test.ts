/** Small uploads that would take much memory or time are refused first. */
import { describe, expect, test } from "vitest";
import { readUpload } from "../../edge/api/upload.ts";
import { BodyReads } from "../../edge/tenants/body-reads.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { addDocumentsRequestSchema } from "../../shared/contracts/openai.ts";

const reads = { bodyReads: new BodyReads(), documentReads: new BodyReads(limits.documentBodyBytes) };

async function read(type: string, text: string, declaredBytes: number | null = text.length) {
  const raw = new Request("http://edge", { method: "POST", body: text });
  const request = { raw, header: () => type, query: () => ({ document: "a" }) };
  const context = {
    ...{ req: request, env: { declaredBytes } },
    get: (name: string) =>
      ({ access: { keyId: "key" }, admission: { admit: async () => undefined }, idempotencyKey: null })[name],
  };
  const { documents } = await readUpload(context as never, reads as never, addDocumentsRequestSchema);
  return documents;
}

const form = "multipart/form-data; boundary=xyz";
const part = (disposition: string, text: string) =>
  `--xyz\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n${text}\r\n`;

describe("a body of documents", () => {
  test.each<[string, string, string, RegExp]>([
    ["many values", "application/json", `{"documents":[${"[],".repeat(70_000)}[]]}`, /70002 values .*maximum is 65536/],
    ["many values in lines", "application/jsonl", `[${"{},".repeat(70_000)}{}]`, /maximum is 65536/],
    ["many lines", "application/jsonl", '""\n'.repeat(20_000), /at least 10001 lines, the maximum is 10000/],
    ["many tags", "text/html", "<b>".repeat(40_000), /at least 32769 HTML tags, the maximum is 32768/],
    ["many parts", form, part('name="x"', "").repeat(11_000), /at least 10067 parts, the maximum is 10066/],
    ["no boundary", "multipart/form-data", "--", /not a form/],
    ["two boundaries", `${form}; boundary=a`, "--xyz--", /not a form/],
    [
      "files of many lines",
      form,
      `${part('name="documents"; filename="a.jsonl"', '"a"\n'.repeat(6000)).repeat(3)}--xyz--`,
      /at least 12000 documents, the maximum is 10000/,
    ],
  ])("with %s is refused", async (_, type, text, message) => {
    await expect(read(type, text)).rejects.toMatchObject({ kind: "invalid_request", message });
  });

  test("of the maximum number of lines or parts is read", async () => {
    expect(await read("application/jsonl", `${'"a"\n'.repeat(limits.documents)}\n\n`)).toHaveLength(limits.documents);
    const parts = Array.from({ length: 100 }, (_, i) => part(`name="documents"; filename="${i}.md"`, "-- a\n--b"));
    expect(await read(form, `${parts.join("")}--xyz--\r\n`)).toHaveLength(100);
  });

  test("that is small is read beside a large one that comes slowly", async () => {
    const { promise: end, resolve } = Promise.withResolvers<void>();
    const slow = reads.documentReads.during("", limits.documentBodyBytes, () => end);
    await expect(read("text/plain", "aab", null)).rejects.toMatchObject({ kind: "rate_limited" });
    expect(await read("text/plain", "aab")).toEqual([{ name: "a", text: "aab" }]);
    resolve();
    await slow;
  });
});
