"""aiosmtpd as a mail server beside the broker: asks for STARTTLS and a password, and prints each mail.

argv: port, certificate, key. Each order on stdin is a reply ("" for none) that all following mails get.
"""
import base64, json, ssl, sys
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

port, certificate, key = int(sys.argv[1]), sys.argv[2], sys.argv[3]
reply = ""


class Handler:
    async def handle_DATA(self, server, session, envelope):
        if reply:
            return reply
        text = envelope.content.decode("utf-8")
        mail = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "text": text,
                "tls": session.ssl is not None, "user": session.auth_data}
        print(json.dumps(mail), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    name, password = data.login.decode(), data.password.decode()
    return AuthResult(success=(name, password) == ("warren", "s3cret: +&%"), auth_data=name)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
controller = Controller(Handler(), hostname="127.0.0.1", port=port, tls_context=context,
                        require_starttls=True, authenticator=authenticate, auth_required=True)
controller.start()
print("ready", flush=True)
for line in sys.stdin:
    reply = line.strip()
    print("so be it", flush=True)
controller.stop()
