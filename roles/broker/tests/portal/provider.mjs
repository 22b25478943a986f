// A real OpenID provider (npm oidc-provider) over TLS, and somebody who signs in there without a browser.
// It says its issuer, then reads lines { visit, login } and answers each with where the provider sends
// that person in the end.

import { createServer } from "node:https";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// Standard output is for answers alone.
console.info = console.warn = console.error;
const say = (line) => process.stdout.write(`${line}\n`);

const { modules, key, cert, redirect, secret, port } = JSON.parse(process.argv[2]);
const require = createRequire(path.join(modules, "from-here.js"));
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

const PEOPLE = {
  ann: { email: "Ann@example.org", email_verified: true, name: "Ann" },
  bob: { email: "bob@example.org", email_verified: true, name: "Bob" },
  // Got Bob's address after him.
  heir: { email: "bob@example.org", email_verified: true, name: "Bob" },
  liar: { email: "bob@example.org", email_verified: false, name: "Bob" },
  // Has the operator's address at this provider.
  twin: { email: "ada@example.org", email_verified: true, name: "Ada" },
  foreign: { email: "carl@elsewhere.example", email_verified: true, name: "Carl" },
};

const server = createServer({ key, cert });
await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
const issuer = `https://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients: [{ client_id: "warren", client_secret: secret, redirect_uris: [redirect] }],
  claims: { email: ["email", "email_verified"], profile: ["name"] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...PEOPLE[id] }) }),
  features: { devInteractions: { enabled: true } },
  cookies: { keys: ["a key of a test"] },
});
server.on("request", provider.callback());

async function visit(url, login) {
  const cookies = new Map();
  let request = { url };
  for (let step = 0; step < 20; step += 1) {
    const { url: at, body } = request;
    const response = await fetch(at, {
      method: body ? "POST" : "GET",
      body,
      redirect: "manual",
      headers: { cookie: [...cookies].map((pair) => pair.join("=")).join("; ") },
    });
    for (const cookie of response.headers.getSetCookie()) {
      const [name, ...value] = cookie.split(";")[0].split("=");
      cookies.set(name, value.join("="));
    }
    const location = response.headers.get("location");
    if (location) {
      const next = new URL(location, at).href;
      if (next.startsWith(redirect)) return next;
      request = { url: next };
      continue;
    }
    const text = await response.text();
    const prompt = text.match(/name="prompt" value="(\w+)"/)?.[1];
    if (!prompt) throw new Error(`${response.status} ${text}`);
    if (!login) request = { url: `${at}/abort` };
    else request = { url: at, body: new URLSearchParams({ prompt, login, password: "x" }) };
  }
  throw new Error("in circles");
}

say(issuer);
for await (const line of createInterface({ input: process.stdin })) {
  const { visit: url, login } = JSON.parse(line);
  say(await visit(url, login).catch((error) => `failed: ${error.stack}`));
}
process.exit(0);
