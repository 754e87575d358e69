"""A hook in Python that does what create.c does. usage: create.py UUID FILE"""
import sys
import xml.etree.ElementTree as ElementTree

ElementTree.parse(sys.stdin.buffer)
with open(sys.argv[2], "w", encoding="ascii") as create:
    create.write(sys.argv[1])
