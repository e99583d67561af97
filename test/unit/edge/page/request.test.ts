/** From the page's fields to requests: every parameter of the API, and nothing for a blank field. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { curlCommand, samplingFields, samplingOf } from "../../../../edge/page/request.ts";
import { completionRequestSchema } from "../../../../shared/contracts/openai.ts";

test("the drawer has every sampling field of the API", () => {
  const elsewhere = "prompt model chameleon stream stream_options logprobs echo";
  const meaningless = "user best_of suffix";
  const forProgramsOnly =
    "n logit_bias min_tokens ignore_eos stop_token_ids repetition_penalty response_format prompt_logprobs";
  const others = `${elsewhere} ${meaningless} ${forProgramsOnly}`.split(" ");
  const wanted = Object.keys(completionRequestSchema.in.shape).filter((name) => !others.includes(name));
  expect(samplingFields.map(({ name }) => name).toSorted()).toEqual(wanted.toSorted());
});

test("texts of fields become the values that the API takes; a blank field is left out, so it has the API's default", () => {
  expect(samplingOf({ temperature: " ", max_tokens: "", seed: "7" })).toEqual({ seed: 7 });
  const sampling = samplingOf({ temperature: "0.5", stop: "\\n\\n\nEND\n" });
  expect(sampling).toEqual({ temperature: 0.5, stop: ["\n\n", "END"] });
  expect(completionRequestSchema.safeParse({ prompt: "a", ...sampling }).success).toBe(true);
});

test("the curl command holds no key but the local one, and its body survives a shell's quotes", async () => {
  const command = curlCommand({ url: "URL", body: { prompt: "a" }, key: "sk-secret" });
  expect(command).not.toContain("sk-secret");
  expect(command).toContain("CHAMELEON_API_KEY");
  const body = { prompt: `it's "a" $HOME \`b\` \\ \n end` };
  const code = curlCommand({ url: "URL", key: "sk-chameleon-local", body });
  const printed = `printf %s ${code.slice(code.indexOf("-d ") + 3)}`;
  const { stdout } = await promisify(execFile)("sh", ["-c", printed]);
  expect(JSON.parse(stdout)).toEqual(body);
});
