// A webhook processor for PipeProc: it answers each log {"myNumber": n} with {"myIncrementedNumber": n + 1}.
// node examples/increment.mjs [host:port]; also INCREMENT_LISTEN in the environment. With INCREMENT_SECRET=whsec_… (or
// several, with spaces between) calls are to be signed with it.
import {createHmac, timingSafeEqual} from "node:crypto";
import {createServer} from "node:http";

const listen = process.argv[2] || process.env.INCREMENT_LISTEN || "127.0.0.1:9090";

const secrets = (process.env.INCREMENT_SECRET || "").split(" ").filter(Boolean);
if (secrets.some((secret) => !/^whsec_[A-Za-z0-9+/]+={0,2}$/.test(secret))) {
    console.error("increment: INCREMENT_SECRET is whsec_…, or several of them with spaces between");
    process.exit(1);
}
const keys = secrets.map((secret) => Buffer.from(secret.slice("whsec_".length), "base64"));
const tolerance = 5 * 60; // seconds: an old call that somebody kept is refused

// Throws unless the call is signed with one of the keys, as Standard Webhooks defines it.
function verify(headers, body) {
    const timestamp = headers["webhook-timestamp"] ?? "";
    if (!/^\d{1,15}$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > tolerance) {
        throw new Error("the webhook's timestamp is not about now");
    }
    const given = (headers["webhook-signature"] ?? "").split(" ").map((text) => Buffer.from(text));
    for (const key of keys) {
        const mac = createHmac("sha256", key).update(`${headers["webhook-id"]}.${timestamp}.`).update(body);
        const want = Buffer.from(`v1,${mac.digest("base64")}`);
        if (given.some((text) => text.length === want.length && timingSafeEqual(text, want))) return;
    }
    throw new Error("the webhook's signature is not that of a known secret");
}

// Answers an object (one log) or an array (one log for each element).
function increment({logs}) {
    const results = logs.map(({id, body}) => {
        if (typeof body.myNumber !== "number") throw new Error(`log ${id} has no myNumber`);
        return {myIncrementedNumber: body.myNumber + 1};
    });
    return results.length === 1 ? results[0] : results;
}

const server = createServer(async (request, response) => {
    const reply = (status, type, text) => response.writeHead(status, {"Content-Type": type}).end(text);
    if (request.url !== "/increment") return reply(404, "text/plain", "not found\n");
    if (request.method !== "POST") return reply(405, "text/plain", "method not allowed\n");
    const chunks = [];
    try {
        for await (const chunk of request) chunks.push(chunk);
    } catch {
        return; // PipeProc repeats a call that broke off
    }
    const body = Buffer.concat(chunks);
    try {
        if (keys.length > 0) verify(request.headers, body);
    } catch (err) {
        return reply(401, "text/plain", `${err.message}\n`); // PipeProc tries again: time to change the secret over
    }
    try {
        const answer = increment(JSON.parse(body.toString("utf8")));
        reply(200, "application/json", JSON.stringify(answer));
    } catch (err) {
        // Another attempt is useless: PipeProc disables the proc, and nothing is skipped unseen.
        reply(422, "text/plain", `${err.message}\n`);
    }
});
// Longer than PipeProc keeps idle connections, so that it is the one to close them.
server.keepAliveTimeout = 120_000;

const colon = listen.lastIndexOf(":");
server.listen({host: listen.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(listen.slice(colon + 1))}, () => {
    const {address, family, port} = server.address();
    console.log(`listening on http://${family === "IPv6" ? `[${address}]` : address}:${port}/increment`);
});
server.on("error", (err) => {
    console.error(`increment: ${err.message}`);
    process.exitCode = 1;
});

// Calls in flight are answered.
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => {
    server.close();
    server.closeIdleConnections();
});
