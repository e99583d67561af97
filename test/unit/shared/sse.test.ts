import { expect, it } from "vitest";
import { sseComment, sseDone, sseEvent } from "../../../shared/contracts/sse.ts";

/** The events of a stream by the standard: an empty line ends an event, and a line that begins with a colon is a comment. */
function parse(stream: string): string[] {
  const events: string[] = [];
  let data: string[] = [];
  for (const line of stream.split(/\r\n|\r|\n/)) {
    if (line === "") {
      if (data.length > 0) events.push(data.join("\n"));
      data = [];
    } else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    else if (!line.startsWith(":")) throw new Error(`unknown field: ${line}`);
  }
  if (data.length > 0) throw new Error("the last event is not ended");
  return events;
}

it("server-sent events are read back by the standard's rules, one event each", () => {
  const stream = sseEvent('{"a":1}') + sseComment("hb") + sseEvent("two\nlines") + sseEvent("") + sseDone;
  expect(parse(stream)).toEqual(['{"a":1}', "two\nlines", "", "[DONE]"]);
});

it.each(["a\rdata: b", "a\r\n\r\nb", "a\n\nevent: b"])("an event cannot be ended early by a line break: %j", (data) => {
  expect(parse(sseEvent(data))).toEqual([data.replace(/\r\n|\r/g, "\n")]);
  expect(parse(sseComment(data) + sseDone)).toEqual(["[DONE]"]);
});
