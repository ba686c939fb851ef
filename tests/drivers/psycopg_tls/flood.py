"""A client with TLS that sends without end, and another one of the same worker that asks for something meanwhile."""

import socket
import ssl
import struct
import sys
import threading

import psycopg

port, database, user = int(sys.argv[1]), sys.argv[2], sys.argv[3]
flush = b"H" + struct.pack("!I", 4)

plain = socket.create_connection(("127.0.0.1", port))
plain.sendall(struct.pack("!II", 8, 80877103))
assert plain.recv(1) == b"S"
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
flooding = context.wrap_socket(plain)
body = struct.pack("!I", 3 << 16) + f"user\0{user}\0database\0{database}\0\0".encode()
flooding.sendall(struct.pack("!I", len(body) + 4) + body)
answer = b""
while not answer.endswith(b"Z\0\0\0\x05I"):
    answer += flooding.recv(4096)

other = psycopg.connect(
    host="127.0.0.1", port=port, user=user, dbname=database, sslmode="disable", autocommit=True
)
over = threading.Event()
under_way = threading.Event()


def flood():
    for count in range(1 << 30):
        if over.is_set():
            return
        flooding.sendall(flush * 13000)
        if count == 20:
            under_way.set()


flooder = threading.Thread(target=flood, daemon=True)
flooder.start()
under_way.wait(10)
asking = threading.Thread(target=lambda: other.execute("SELECT 1"), daemon=True)
asking.start()
asking.join(10)
print("starved" if asking.is_alive() else "answered")
over.set()
flooder.join(10)
