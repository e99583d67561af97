/** The page's request as code for a terminal or a program. Pure. */
/** The API key of a local start; no secret. */
export const localKey = "sk-chameleon-local";

export type Language = "curl" | "JavaScript" | "Python";
export const languages: readonly Language[] = ["curl", "JavaScript", "Python"];

interface Call {
  url: string;
  key: string;
  body: object;
}

/** A program that sends the request and prints the answer's text. A key of one's own is read from the environment. */
export function snippet(language: Language, { url, key, body }: Call): string {
  const isLocal = key === localKey;
  const json = JSON.stringify(body, null, 2);
  switch (language) {
    case "curl": {
      const header = isLocal
        ? `-H 'authorization: Bearer ${localKey}'`
        : `-H "authorization: Bearer $CHAMELEON_API_KEY"`;
      return `curl -s ${url} \\\n  ${header} \\\n  -H 'content-type: application/json' \\\n  -d '${json.replaceAll("'", "'\\''")}'`;
    }
    case "JavaScript":
      return `const response = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: {
    "content-type": "application/json",
    authorization: \`Bearer \${${isLocal ? JSON.stringify(localKey) : "process.env.CHAMELEON_API_KEY"}}\`,
  },
  body: JSON.stringify(${json.replaceAll("\n", "\n  ")}),
});
if (!response.ok) throw new Error(await response.text());
const { choices } = await response.json();
console.log(choices[0].text);`;
    case "Python":
      return `import json${isLocal ? "" : ", os"}, urllib.request

body = json.loads(r"""${json}""")
request = urllib.request.Request(
    ${JSON.stringify(url)},
    data=json.dumps(body).encode(),
    headers={
        "content-type": "application/json",
        "authorization": "Bearer " + ${isLocal ? JSON.stringify(localKey) : 'os.environ["CHAMELEON_API_KEY"]'},
    },
)
with urllib.request.urlopen(request) as response:
    print(json.load(response)["choices"][0]["text"])`;
  }
}
